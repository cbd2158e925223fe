//! What is done about a stall or an exit, and what holds it back.
