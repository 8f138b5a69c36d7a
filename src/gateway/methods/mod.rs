//! The methods, one file a family: rows, parameters, results and handlers side by side.

pub mod health;
pub mod system;
pub mod device;
pub mod voicewake;

use super::table::Method;

/// Every family.
pub static FAMILIES: &[&[Method]] = &[health::METHODS, system::METHODS, device::METHODS, voicewake::METHODS];
