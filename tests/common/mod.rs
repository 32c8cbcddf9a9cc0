//! Helpers of the tests in this folder; each test uses some of them.

#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod mosquitto;
