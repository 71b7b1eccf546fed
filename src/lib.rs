
pub mod kernel;
