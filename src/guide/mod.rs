//! The manual: one page a topic. On a forge, read it in `src/guide/`, from `index.md` on.
//!
//! `tests/it/guide.rs` runs the commands of each page and follows its links.

/// A page. Its file defines its links for a forge, at its end; the definitions here come first, so rustdoc takes them.
macro_rules! pages {
    ($($file:literal $page:ident)+) => {$(
        #[doc = concat!(
            "[install]: crate::guide::install\n[operate]: crate::guide::operate\n[events]: crate::guide::events\n[verdicts]: crate::guide::verdicts\n",
            "[performance]: crate::guide::performance\n[limits]: crate::guide::limits\n[agents]: crate::guide::agents\n",
            "[architecture]: crate::guide::architecture\n[daemons]: crate::guide::daemons\n[testing]: crate::guide::testing\n[migrate]: crate::guide::migrate\n[restart]: crate::guide::restart\n[service]: crate::guide::service\n[act]: crate::guide::act\n\n",
        )]
        #[doc = include_str!($file)]
        pub mod $page {}
    )+};
}

pages! {
    "install.md" install
    "operate.md" operate
    "act.md" act
    "service.md" service
    "restart.md" restart
    "agents.md" agents
    "daemons.md" daemons
    "events.md" events
    "verdicts.md" verdicts
    "performance.md" performance
    "limits.md" limits
    "architecture.md" architecture
    "testing.md" testing
    "migrate.md" migrate
}
