//! How does neap ask the kernel? Every syscall and every line of `unsafe`.
#![allow(unsafe_code)]

pub mod alloc;
