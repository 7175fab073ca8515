use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Between two looks.
const POLL: Duration = Duration::from_millis(25);

/// Looks until `look` answers `Ok`, and returns what it found.
///
/// # Panics
/// It has not within `limit`: the last `Err` says what was found instead.
pub async fn until<T, E: Debug>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + limit;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(instead) if Instant::now() >= end => {
                panic!("not within {limit:?}: {what}; instead: {instead:?}")
            }
            Err(_) => sleep(POLL).await,
        }
    }
}
