//! Waiting until there may be more to do, or somebody wants no more.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_default;
use signal_hook::iterator::Signals;

/// SIGINT (Ctrl-C) or SIGTERM, once; the second one ends the process at once.
pub(crate) struct Stop {
    signals: Receiver<()>,
    is_wanted: bool,
}

impl Stop {
    /// From now on these signals do not end the process.
    pub(crate) fn on_signals() -> anyhow::Result<Self> {
        let (tell, signals) = channel();
        let seen = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            register_conditional_default(signal, Arc::clone(&seen))?;
            signal_hook::flag::register(signal, Arc::clone(&seen))?;
        }
        let mut caught = Signals::new([SIGINT, SIGTERM])?;
        std::thread::spawn(move || {
            // The receiver is gone when the process ends anyway.
            let _ = caught.forever().next().map(|_| tell.send(()));
        });
        Ok(Self { signals, is_wanted: false })
    }

    /// Waits for so long at most; whether somebody wants no more.
    pub(crate) fn wait(&mut self, timeout: Duration) -> bool {
        self.is_wanted = self.is_wanted
            || match self.signals.recv_timeout(timeout) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => false,
            };
        self.is_wanted
    }
}
