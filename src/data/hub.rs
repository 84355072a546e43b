//! Data sets of the Hugging Face hub, kept in the hub's own cache, which Python's libraries share: the data files of the repository,
//! or where it has none the Parquet files that the hub makes of it in the branch `refs/convert/parquet`.
//!
//! The hub is asked which files there are; where it does not answer, what the cache has is taken.

use super::repository::{Chosen, NoChoice, choose};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::model::hub_repository::{self, Failure, HubId, PATIENCE};
use std::path::PathBuf;

/// The branch in which the hub keeps every data set as Parquet.
const CONVERTED: &str = "refs/convert/parquet";

/// A data set of the hub.
#[derive(Debug, Clone)]
pub struct HubDataset {
    id: HubId,
    /// Its files.
    pub chosen: Chosen,
}

/// Whether a name can be that of a data set of the hub: "org/name".
pub fn is_hub_name(name: &str) -> bool {
    HubId::dataset(name, None).is_some()
}

impl HubDataset {
    /// Finds the files of a data set; nothing is downloaded yet.
    ///
    /// # Errors
    /// There is no such data set, revision or configuration, it has no files that can be read, or the hub does not answer and the
    /// cache has nothing of it; Ctrl-C.
    pub fn find(name: &str, revision: Option<&str>, configuration: Option<&str>, control: &Control) -> Result<Self> {
        let id = |revision| {
            HubId::dataset(name, revision).ok_or_else(|| Error::argument(format!("\"{name}\" is no name of the hub: org/name")))
        };
        let (own, converted) = (id(revision)?, id(Some(CONVERTED))?);
        let names = match names(&own, control) {
            // Of a repository without data of its own the cache has only the other branch.
            Err(Error::Missing(_)) if revision.is_none() && !hub_repository::cached_names(&converted).is_empty() => Vec::new(),
            names => names?,
        };
        let fault = |reason: String| Error::Missing(format!("cannot load {own} from the hub: {reason}"));
        match choose(&names, configuration) {
            Ok(chosen) => Ok(Self { id: own, chosen }),
            Err(NoChoice::Reason(reason)) => Err(fault(reason)),
            Err(NoChoice::NoData) => {
                let found = if names.is_empty() { "no files".to_string() } else { names.join(", ") };
                let none = format!("it has no Parquet, JSON, CSV or text files, only {found}");
                if revision.is_some() {
                    return Err(fault(none));
                }
                let names = match self::names(&converted, control) {
                    Ok(names) => names,
                    Err(Error::Interrupted) => return Err(Error::Interrupted),
                    Err(_) => return Err(fault(format!("{none}; and no branch {CONVERTED}"))),
                };
                match choose(&names, configuration) {
                    Ok(chosen) => Ok(Self { id: converted, chosen }),
                    Err(NoChoice::Reason(reason)) => Err(fault(reason)),
                    Err(NoChoice::NoData) => Err(fault(none)),
                }
            }
        }
    }

    /// Downloads files, those that are not there yet, and gives their paths.
    ///
    /// # Errors
    /// A file cannot be fetched; Ctrl-C.
    pub fn download(&self, files: &[String], control: &Control) -> Result<Vec<PathBuf>> {
        hub_repository::download(&self.id, files, control).map_err(|failure| fault(&self.id, failure))
    }
}

/// The names of the files of a repository: those that the hub has, or where it does not answer those in the cache.
fn names(id: &HubId, control: &Control) -> Result<Vec<String>> {
    hub_repository::list(id, PATIENCE, control).or_else(|failure| {
        let cached = hub_repository::cached_names(id);
        if matches!(failure, Failure::Interrupted) || cached.is_empty() { Err(fault(id, failure)) } else { Ok(cached) }
    })
}

fn fault(id: &HubId, failure: Failure) -> Error {
    failure.into_error(|reason| Error::Missing(format!("cannot get the data set {id} from the hub: {reason}")))
}
