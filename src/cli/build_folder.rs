//! A build folder of its own for every notebook in Rust that runs.
//!
//! evcxr writes each cell's source into its build folder and has cargo build it there: two notebooks in one folder would run each other's
//! cells. The first takes the folder that the installation has filled; who comes while it is taken gets a copy, which is used again
//! later.

use crate::error::{Error, Result};
use std::fs::{File, FileTimes, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Folders at most: as many notebooks can run at once.
const MOST: usize = 32;

/// How long a copy is kept after its last use: it takes almost a gigabyte.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A folder that nobody else takes as long as the lock is open.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) folder: PathBuf,
    lock: File,
}

impl Taken {
    /// The first free folder below `place`.
    pub(super) fn take(place: &Path) -> Result<Self> {
        std::fs::create_dir_all(place).map_err(|e| Error::io("create the folder", place, e))?;
        let first = place.join("build");
        for number in 1..=MOST {
            let name = name(number);
            let Some(lock) = lock(place, &name)? else { continue };
            let folder = place.join(&name);
            if !folder.exists() {
                // What a copy that was broken off has left goes.
                let work = place.join(format!(".{name}.work"));
                if work.exists() {
                    std::fs::remove_dir_all(&work).map_err(|e| Error::io("remove", &work, e))?;
                }
                copy(&first.join("target"), &work.join("target"))?;
                std::fs::rename(&work, &folder).map_err(|e| Error::io("write", &folder, e))?;
            }
            // The time of its last use; where that cannot be written, the folder is only removed sooner than it might be.
            let _ = lock.set_modified(SystemTime::now());
            remove_unused(place);
            return Ok(Self { folder, lock });
        }
        Err(Error::Missing(format!("{MOST} notebooks in Rust are running; close one")))
    }

    /// Keeps the lock until this process and the programs that it starts have ended.
    pub(super) fn keep(self) -> Result<PathBuf> {
        #[cfg(unix)]
        {
            use std::os::fd::IntoRawFd;
            // SAFETY: the descriptor is open; it is told to stay so in another program.
            if unsafe { libc::fcntl(self.lock.into_raw_fd(), libc::F_SETFD, 0) } != 0 {
                return Err(Error::io("keep the lock of", &self.folder, std::io::Error::last_os_error()));
            }
        }
        #[cfg(not(unix))]
        std::mem::forget(self.lock);
        Ok(self.folder)
    }
}

fn name(number: usize) -> String {
    if number == 1 { "build".to_string() } else { format!("build-{number}") }
}

/// The lock of a folder, unless another process has it.
fn lock(place: &Path, name: &str) -> Result<Option<File>> {
    let path = place.join(format!(".{name}.lock"));
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.map_err(|e| Error::io("open", &path, e))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", &path, e)),
    }
}

/// Removes copies that nobody has used for long. What cannot be removed stays for the next time: a notebook starts all the same.
fn remove_unused(place: &Path) {
    for name in (2..=MOST).map(name).filter(|name| place.join(name).exists()) {
        let Ok(Some(lock)) = lock(place, &name) else { continue };
        let used = lock.metadata().and_then(|metadata| metadata.modified());
        if used.is_ok_and(|used| used.elapsed().is_ok_and(|unused| unused > KEPT)) {
            let _ = std::fs::remove_dir_all(place.join(&name));
        }
    }
}

/// Copies what was built, with its times, by which cargo knows that it is up to date. Libraries are linked: they are replaced as a whole,
/// never written into. What vanishes meanwhile is temporary.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(|e| Error::io("create the folder", to, e))?;
    let entries = match std::fs::read_dir(from) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("read", from, e)),
    };
    for entry in entries.flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            copy(&from, &to)?;
            continue;
        }
        match copy_file(&from, &to) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("copy", &from, e)),
            _ => {}
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> std::io::Result<()> {
    let library = from.extension().is_some_and(|extension| extension == "rlib" || extension == "rmeta");
    if library && std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let modified = std::fs::metadata(from)?.modified()?;
    std::fs::copy(from, to)?;
    File::options().write(true).open(to)?.set_times(FileTimes::new().set_modified(modified))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_copied_with_its_times_and_used_again() {
        let place = tempfile::tempdir().unwrap();
        let first = Taken::take(place.path()).unwrap();
        assert_eq!(first.folder, place.path().join("build"));
        let deps = first.folder.join("target/debug/deps");
        std::fs::create_dir_all(&deps).unwrap();
        std::fs::create_dir_all(first.folder.join("src")).unwrap();
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for name in ["libx.rlib", "x.d"] {
            std::fs::write(deps.join(name), name).unwrap();
            File::options()
                .write(true)
                .open(deps.join(name))
                .unwrap()
                .set_times(FileTimes::new().set_modified(long_ago))
                .unwrap();
        }
        std::fs::write(first.folder.join("src/lib.rs"), "a cell").unwrap();
        // A copy that was broken off.
        std::fs::create_dir_all(place.path().join(".build-2.work/target/half")).unwrap();

        let second = Taken::take(place.path()).unwrap();
        assert_eq!(second.folder, place.path().join("build-2"));
        for name in ["libx.rlib", "x.d"] {
            let copied = second.folder.join("target/debug/deps").join(name);
            assert_eq!(std::fs::read_to_string(&copied).unwrap(), name);
            assert_eq!(std::fs::metadata(&copied).unwrap().modified().unwrap(), long_ago);
        }
        assert!(!second.folder.join("src").exists() && !second.folder.join("target/half").exists());
        // What is written into the copy does not reach the first.
        std::fs::write(second.folder.join("target/debug/deps/x.d"), "changed").unwrap();
        assert_eq!(std::fs::read_to_string(deps.join("x.d")).unwrap(), "x.d");

        let third = Taken::take(place.path()).unwrap();
        assert_eq!(third.folder, place.path().join("build-3"));
        drop(second);
        let again = Taken::take(place.path()).unwrap();
        assert_eq!(again.folder, place.path().join("build-2"));
        assert_eq!(std::fs::read_to_string(again.folder.join("target/debug/deps/x.d")).unwrap(), "changed");
        drop(first);
        assert_eq!(Taken::take(place.path()).unwrap().folder, place.path().join("build"));
    }

    #[test]
    fn copies_that_nobody_used_for_long_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let taken: Vec<Taken> = (0..4).map(|_| Taken::take(place.path()).unwrap()).collect();
        let long_ago = SystemTime::now() - KEPT - Duration::from_secs(60);
        for number in [1, 2, 4] {
            let path = place.path().join(format!(".{}.lock", name(number)));
            File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
        }
        let exist = || (1..=4).map(|number| place.path().join(name(number)).exists()).collect::<Vec<_>>();
        // The first is the installation's, the fourth is in use.
        let mut taken = taken.into_iter();
        drop((taken.next(), taken.next(), taken.next()));
        let first = Taken::take(place.path()).unwrap();
        assert_eq!(exist(), [true, false, true, true]);
        drop((first, taken));
        // Taken again before the time is over, it is there.
        assert_eq!(Taken::take(place.path()).unwrap().folder, place.path().join("build"));
        assert_eq!(exist(), [true, false, true, false]);
    }
}
