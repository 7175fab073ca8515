//! Progress on standard error, only where a person watches.

use std::io::{Write, stderr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::output::Output;

/// Shortest time between two redraws of one phase.
const REDRAW: Duration = Duration::from_millis(80);

/// A line that is drawn over and over.
#[derive(Clone, Debug)]
pub struct Progress {
    enabled: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    start: Instant,
    drawn: Option<Instant>,
    phase: String,
    width: usize,
}

impl Progress {
    /// Starts the clock.
    pub fn new(output: &Output) -> Self {
        let state = State { start: Instant::now(), drawn: None, phase: String::new(), width: 0 };
        Self { enabled: output.draws_progress(), state: Arc::new(Mutex::new(state)) }
    }

    /// A new phase; the one before is finished.
    pub fn phase(&self, name: &str) {
        let mut state = self.lock();
        state.phase = name.to_owned();
        state.drawn = None;
        self.draw(&mut state, "");
    }

    /// More about the present phase.
    pub fn detail(&self, text: &str) {
        let mut state = self.lock();
        if state.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW) {
            return;
        }
        self.draw(&mut state, text);
    }

    /// Removes the line, so that what follows stands alone.
    pub fn clear(&self) {
        let mut state = self.lock();
        if self.enabled && state.width > 0 {
            write(&format!("\r{}\r", " ".repeat(state.width)));
            state.width = 0;
        }
    }

    fn draw(&self, state: &mut State, detail: &str) {
        if !self.enabled {
            return;
        }
        let seconds = state.start.elapsed().as_secs_f64();
        let space = if detail.is_empty() { "" } else { ": " };
        let mut line = format!("{seconds:6.1} s  {}{space}{detail}", state.phase);
        // One terminal line of the narrowest usual width, whatever the detail is.
        line = line.chars().take(78).collect();
        let width = line.chars().count();
        write(&format!("\r{line}{}", " ".repeat(state.width.saturating_sub(width))));
        state.width = width;
        state.drawn = Some(Instant::now());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(text: &str) {
    let mut out = stderr().lock();
    // A terminal that is gone shows nothing.
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
