//! Numbered steps: where a process can be ended, or overtaken by another one.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use strait_common::{Error, Result};

/// What happens at an armed step, before its effect.
pub enum Action {
    /// The process dies: this call and every later one of the process fails with `Internal`, and the store stays as it is.
    Crash,
    /// This runs while the process stands still, for example the whole life of another process.
    Meanwhile(Box<dyn FnOnce() + Send>),
}

/// Counts the steps of one process. Every effect on the store is a step of its own, and so is the return of each call that had one, so
/// that a crash at step n of every n ends the process before, between and after all effects, with the answer lost and with the answer given.
#[derive(Default)]
pub struct Steps {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: u64,
    armed: Option<(u64, Action)>,
    /// The step and its name.
    died_at: Option<(u64, &'static str)>,
}

impl Steps {
    /// How many steps were begun, the one that the process died in included.
    pub fn taken(&self) -> u64 {
        self.lock().taken
    }

    /// Whether the process died.
    pub fn crashed(&self) -> bool {
        self.lock().died_at.is_some()
    }

    /// Arms one step, counted from 1 since the process began; replaces what was armed before. A step that has passed never comes.
    pub fn at(&self, step: u64, action: Action) {
        self.lock().armed = Some((step, action));
    }

    /// Ends the process now.
    pub fn crash_now(&self) {
        let mut state = self.lock();
        state.died_at = Some((state.taken, "between two calls"));
    }

    /// Begins the next step.
    pub(crate) fn take(&self, name: &'static str) -> Result<()> {
        let mut state = self.lock();
        if let Some((step, at)) = state.died_at {
            return Err(Error::internal(format!(
                "this process crashed at step {step} ({at}); open the store again"
            )));
        }
        state.taken += 1;
        let now = state.taken;
        match state.armed.take() {
            Some((step, Action::Crash)) if step == now => {
                state.died_at = Some((now, name));
                Err(Error::internal(format!("crashed at step {now} ({name})")))
            }
            Some((step, Action::Meanwhile(run))) if step == now => {
                // The lock is free meanwhile: what runs may look at these steps.
                drop(state);
                run();
                Ok(())
            }
            later => {
                state.armed = later;
                Ok(())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere has nothing half-done here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        write!(f, "Steps({} taken", state.taken)?;
        if let Some((step, name)) = state.died_at {
            write!(f, ", crashed at {step}: {name}")?;
        }
        f.write_str(")")
    }
}
