//! Runs a program for what it prints, within bounds.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::saturate::SaturatingFrom as _;

/// Runs `program` and returns its output. An error describes the failure and quotes nothing of the
/// output.
///
/// No shell is involved, nothing is given to its input, and what it says on its error output is
/// thrown away, since it may be a secret.
pub(super) fn run(
    program: &Path,
    arguments: &[String],
    timeout: Duration,
    max_bytes: u64,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot be started: {e}"))?;
    let stdout = child.stdout.take();
    let (done, finished) = mpsc::sync_channel(1);
    // Reads in a thread of its own, because reading a pipe has no deadline. If the program left a
    // child behind that keeps the pipe open, the thread ends with that.
    let reader =
        std::thread::Builder::new().name("credentials-command".to_owned()).spawn(move || {
            let mut output = Zeroizing::new(Vec::with_capacity(64 * 1024));
            let read = match stdout {
                Some(stdout) => stdout.take(max_bytes + 1).read_to_end(&mut output).map(|_| ()),
                None => Ok(()),
            };
            // Nobody listens any more after the deadline.
            drop(done.send(read.map(|()| output)));
        });
    let outcome = match reader {
        Ok(_detached) => finished.recv_timeout(timeout),
        Err(e) => {
            end(&mut child);
            return Err(format!("cannot be read: {e}"));
        }
    };
    let output = match outcome {
        Ok(Ok(output)) => output,
        Ok(Err(e)) => {
            end(&mut child);
            return Err(format!("cannot be read: {e}"));
        }
        Err(_) => {
            end(&mut child);
            return Err(format!("did not answer within {} ms", timeout.as_millis()));
        }
    };
    if u64::saturating_from(output.len()) > max_bytes {
        end(&mut child);
        return Err(format!("printed more than {max_bytes} bytes"));
    }
    // Its output is closed; a program that does not end then is ended.
    let Some(status) = wait(&mut child, timeout) else {
        end(&mut child);
        return Err("does not end".to_owned());
    };
    if status.success() { Ok(output) } else { Err(format!("failed: {status}")) }
}

/// Waits for the program to end, looking again and again, as the standard library has no deadline
/// for it.
fn wait(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    const STEP: Duration = Duration::from_millis(5);
    let steps = timeout.as_millis() / STEP.as_millis() + 1;
    let (_open, never) = mpsc::sync_channel::<()>(0);
    for _ in 0..steps {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        // Nothing is ever sent.
        if never.recv_timeout(STEP).is_ok() {
            break;
        }
    }
    None
}

/// Kills the program and collects it.
fn end(child: &mut Child) {
    // It may have ended by itself, which is as well.
    drop(child.kill());
    drop(child.wait());
}
