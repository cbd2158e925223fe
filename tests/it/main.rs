//! All tests that drive the built program or read the tree, in one program, which is linked once; what they
//! share is in [`common`]. `cargo test --test it hostile::` runs the tests of one topic.

mod common;

mod act;
mod agents;
mod blind;
mod chaos;
mod cli;
mod containers;
mod dashboard;
mod demo;
mod deploy;
mod events;
mod exits;
mod failing_calls;
mod faults;
mod guide;
mod history;
mod hostile;
mod http;
mod identity;
mod inherited;
mod instructions;
mod load;
mod memory;
mod names;
mod neighbours;
mod observer;
mod outputs;
mod package;
mod page;
mod reload;
mod restart;
mod route;
mod run;
mod service;
mod soak;
mod spawner;
mod streams;
mod takeover;
mod tidy;
mod units;
mod upkeep;
mod vectors;
mod views;
mod wire;
