//! How a cell fails visibly in evcxr.
//!
//! evcxr takes a cell for done whatever it returns, and after a panic as well; what it does report is a line of the cell's output
//! that is no UTF-8. Such a line ends the cell on evcxr's side while this process lives on with all variables. The lines with
//! which the process then says that the cell is over must not reach evcxr, or it would take them for the next cell's.

use super::in_evcxr;
use std::io::Write;
use std::time::Duration;

/// evcxr shows a message of its own.
const EXPLANATION: &str =
    "the cell ends here, and all variables stay; \"stream did not contain valid UTF-8\" is how evcxr says that it failed";

/// Tells the error and ends the cell as failed; elsewhere panics with it.
pub(super) fn fail(report: &str) -> ! {
    if in_evcxr() {
        println!("{report}\n{EXPLANATION}");
        // evcxr sends printed lines from another thread; they shall be there before the cell ends.
        std::thread::sleep(Duration::from_millis(50));
        #[cfg(unix)]
        if unix::fail_cell().is_ok() {
            // Without the hook's message: the report is there already.
            std::panic::resume_unwind(Box::new("a script failed"));
        }
        // evcxr sees that the process is gone; its variables are lost.
        std::process::exit(1);
    }
    eprintln!("{report}");
    std::panic::resume_unwind(Box::new(report.to_string()))
}

#[cfg(unix)]
mod unix {
    use super::{Duration, Write};
    use std::fs::File;
    use std::io::{BufRead, BufReader, Result};
    use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

    /// With this line evcxr's side of the process says that the cell is over.
    const OVER: &str = "EVCXR_EXECUTION_COMPLETE";
    /// Should the line never come, the output is given back after this time.
    const LONGEST: Duration = Duration::from_secs(5);

    /// Sends the broken line, and takes away the output of the cell's end.
    pub(super) fn fail_cell() -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.flush()?;
        let kept = out.as_fd().try_clone_to_owned()?;
        let mut ends = [0; 2];
        // SAFETY: the array has room for both ends.
        if unsafe { libc::pipe(ends.as_mut_ptr()) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: both are open and nobody else's.
        let (read, write) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        let mut direct = File::from(kept.try_clone()?);
        redirect(&write)?;
        direct.write_all(b"\xff\n")?;
        drop((write, out));
        let kept_for_alarm = kept.try_clone()?;
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(File::from(read)).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| line != OVER)) {}
            let _ = redirect(&kept);
            let _ = done.send(());
        });
        std::thread::spawn(move || {
            if is_done.recv_timeout(LONGEST).is_err() {
                let _ = redirect(&kept_for_alarm);
            }
        });
        Ok(())
    }

    /// Standard output goes there from now on.
    fn redirect(to: &OwnedFd) -> Result<()> {
        // SAFETY: both are open.
        match unsafe { libc::dup2(to.as_raw_fd(), 1) } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}
