//! placeholder
use crate::error::OpenError;
use std::path::{Path, PathBuf};
pub(crate) struct TornTail {
    pub file: PathBuf,
    pub offset: u64,
    pub dropped: u64,
    pub cause: String,
}
pub(crate) fn drop_torn_tail(_dir: &Path) -> Result<Option<TornTail>, OpenError> {
    Ok(None)
}
