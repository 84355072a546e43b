//! Data sets of the Hugging Face hub, kept in the hub's own cache, which Python's libraries share: the data files of the repository,
//! or where it has none the Parquet files that the hub makes of it in the branch `refs/convert/parquet`.
//!
//! The hub is asked which files there are, and of which commit; where it does not answer, what the cache has is taken.

use super::card::{Configuration, configurations, pick};
use super::repository::{Chosen, NoChoice, SplitFiles, choose, choose_converted};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::model::hub_repository::{self, Failure, HubId, Listing, PATIENCE};
use std::path::PathBuf;

/// The branch in which the hub keeps every data set as Parquet.
const CONVERTED: &str = "refs/convert/parquet";
/// The file whose header is the data set's card.
pub const CARD: &str = "README.md";

/// A data set of the hub, at one commit.
#[derive(Debug, Clone)]
pub struct HubDataset {
    id: HubId,
    commit: String,
}

/// Whether a name can be that of a data set of the hub: "org/name".
pub fn is_hub_name(name: &str) -> bool {
    HubId::dataset(name, None).is_some()
}

impl HubDataset {
    /// Finds the files of a data set; none is downloaded yet but its card.
    ///
    /// # Errors
    /// There is no such data set, revision or configuration, it has no files that can be read, its card cannot be read, or the hub
    /// does not answer and the cache has nothing of it; Ctrl-C.
    pub fn find(name: &str, revision: Option<&str>, configuration: Option<&str>, control: &Control) -> Result<(Self, Chosen)> {
        let id = |revision| {
            HubId::dataset(name, revision).ok_or_else(|| Error::argument(format!("\"{name}\" is no name of the hub: org/name")))
        };
        let (own, converted) = (id(revision)?, id(Some(CONVERTED))?);
        // That is what the hub converts.
        let is_main = own.is_main();
        let listing = match listing(&own, control) {
            // Of a repository without data of its own the cache has only the other branch.
            Err(Error::Missing(_)) if is_main && !hub_repository::list_cached(&converted).names.is_empty() => Listing::default(),
            listing => listing?,
        };
        let fault = |reason: String| Error::Missing(format!("cannot load {own} from the hub: {reason}"));
        let names = listing.names.clone();
        let found = Self { id: own.clone(), commit: listing.commit.clone() };
        let card = found.card(&names, control)?;
        match choose(&names, &card, configuration) {
            Ok(chosen) => Ok((found, whole(chosen, &listing))),
            Err(NoChoice::Reason(reason)) => Err(fault(reason)),
            Err(NoChoice::NoData) => {
                let files = if names.is_empty() { "no files".to_string() } else { names.join(", ") };
                let none = match listing.cached {
                    true => format!("the hub's cache has only {files}, and the hub does not answer"),
                    false => format!("it has no Parquet, JSON, CSV or text files, only {files}"),
                };
                if !is_main {
                    return Err(fault(none));
                }
                let listing = match self::listing(&converted, control) {
                    Ok(listing) => listing,
                    Err(Error::Interrupted) => return Err(Error::Interrupted),
                    Err(_) => return Err(fault(format!("{none}; and no branch {CONVERTED}"))),
                };
                let default = pick(&card, configuration).ok().flatten().map(|one| one.name.as_str());
                match choose_converted(&listing.names, default.or(configuration)) {
                    Ok(chosen) => {
                        warn_of_parts(&own, &chosen, control);
                        let chosen = whole(chosen, &listing);
                        Ok((Self { id: converted, commit: listing.commit }, chosen))
                    }
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
        hub_repository::download(&self.id, &self.commit, files, control).map_err(|failure| fault(&self.id, failure))
    }

    fn card(&self, names: &[String], control: &Control) -> Result<Vec<Configuration>> {
        if !names.iter().any(|name| name == CARD) {
            return Ok(Vec::new());
        }
        let mut card = Vec::new();
        for path in self.download(&[CARD.to_string()], control)? {
            let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
            card = configurations(&String::from_utf8_lossy(&bytes)).map_err(|what| {
                let hint = "download its files and load them with load_dataset(\"json\", #{ data_files: .. })";
                Error::Missing(format!("cannot load {} from the hub: its {CARD}: {what}; {hint}", self.id))
            })?;
        }
        Ok(card)
    }
}

/// The files of a repository: those that the hub has, or where it does not answer those in the cache.
fn listing(id: &HubId, control: &Control) -> Result<Listing> {
    hub_repository::list(id, PATIENCE, control).or_else(|failure| {
        let cached = hub_repository::list_cached(id);
        match failure {
            Failure::Reason(reason) if !cached.names.is_empty() => {
                if !hub_repository::offline() {
                    control.warn(format!("{id}: {reason}; what the hub's cache has of it is taken"));
                }
                Ok(cached)
            }
            failure => Err(fault(id, failure)),
        }
    })
}

fn fault(id: &HubId, failure: Failure) -> Error {
    failure.into_error(|reason| Error::Missing(format!("cannot get the data set {id} from the hub: {reason}")))
}

/// Takes the files from splits that the cache has only in part.
fn whole(mut chosen: Chosen, listing: &Listing) -> Chosen {
    if !listing.cached {
        return chosen;
    }
    for split in &mut chosen.splits {
        if let Some(part) = split.files.as_ref().ok().and_then(|(_, files)| missing_part(files)) {
            split.files = Err(format!("the hub's cache lacks {part} of the split {}, and the hub does not answer", split.name));
        }
    }
    chosen
}

/// A part that is not among files such as `train-00000-of-00002.parquet`, though their names promise it.
fn missing_part(files: &[String]) -> Option<String> {
    files.iter().find_map(|file| {
        let name = file.rfind('/').map_or(0, |slash| slash + 1);
        let (start, rest) = file.split_at(name + file[name..].find("-of-")?);
        let (rest, (start, number)) = (rest.strip_prefix("-of-")?, start.rsplit_once('-')?);
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let count: usize = rest[..digits].parse().ok()?;
        number.parse::<usize>().ok()?;
        // What follows the count may be a text of every part's own.
        let part = |i: usize| format!("{start}-{i:0width$}-of-{}", &rest[..digits], width = number.len());
        (0..count).map(part).find(|part| !files.iter().any(|file| file.starts_with(part.as_str())))
    })
}

/// Of large data sets the hub converts only the first gigabytes.
fn warn_of_parts(id: &HubId, chosen: &Chosen, control: &Control) {
    let partial = |split: &&SplitFiles| match &split.files {
        Ok((_, files)) => files.iter().any(|file| file.split('/').any(|part| part.starts_with("partial-"))),
        Err(_) => false,
    };
    let names: Vec<&str> = chosen.splits.iter().filter(partial).map(|split| split.name.as_str()).collect();
    if !names.is_empty() {
        control.warn(format!("{id}: the hub has converted only the first part of {}", names.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::missing_part;

    #[test]
    fn a_part_is_missed() {
        let files = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let part = |i: usize| format!("data/train-0000{i}-of-00003-a{i}.parquet");
        assert_eq!(missing_part(&[part(0), part(1), part(2)]), None);
        assert_eq!(missing_part(&[part(0), part(2)]).as_deref(), Some("data/train-00001-of-00003"));
        let folder = files(&["best-of-three/train-00000-of-00002.parquet"]);
        assert_eq!(missing_part(&folder).as_deref(), Some("best-of-three/train-00001-of-00002"));
        assert_eq!(missing_part(&files(&["train.csv", "a-of-b.csv", "x-of-3.csv", "y-1-of-b.csv"])), None);
    }
}
