//! The status page of a [`Stage`].

use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self, UnixListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use parking_lot::Mutex;

use crate::aggregator::Request;
use crate::config::Config;
use crate::history::{History, Recorder};
use crate::http::{Heard, Http, Listeners, Sources, Terms, TermsInForce};
use crate::lab::mass_stall::Stage;
use crate::process::sweeper::Sweeper;
use crate::sys::clock::{SystemClock, boottime_ns};
use crate::time::Clock;

impl Stage {
    /// Serves page, API and metrics, and records the history. Call it once, before an agent beats. Returns the
    /// address.
    ///
    /// # Errors
    /// The kernel's, if the address cannot be bound, or it grants no memory, descriptor or thread.
    pub fn serve(&mut self, listen: SocketAddr) -> io::Result<SocketAddr> {
        let mut config = Config { agents_max: self.setup.agents, ..Config::default() };
        config.shards = Some(self.setup.shards.into());
        config.threshold = Duration::from_nanos(self.setup.threshold_ns);
        config.http.listen = Some(listen);
        let plan = config.plan().map_err(io::Error::other)?;
        let name = format!("varta-crowd-{}", std::process::id());
        let control = UnixListener::bind_addr(&net::SocketAddr::from_abstract_name(name)?)?;
        control.set_nonblocking(true)?;
        let listeners = Listeners::open(control, None, &plan.http).map_err(io::Error::other)?;
        let address = listeners.address().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (heard, subscriber) = Heard::subscribe(&plan);
        let _ = self.requests.send(Request::Subscribe(subscriber));
        self.doorbell.ring();
        let history = Arc::new(History::create(0, boottime_ns(), SystemClock.wall().0)?);
        let ports: Arc<[_]> = self.ports.as_slice().into();
        let recorder = Recorder::new(Arc::clone(&history), Arc::clone(&ports), Arc::clone(&self.copies));
        let mut sweeper = Sweeper::new(Arc::clone(&ports), Arc::clone(&self.names));
        let stop = Arc::clone(&self.stop);
        self.spawn("upkeep", move || {
            while !stop.load(Ordering::Acquire) {
                sleep(recorder.rest_of_second());
                recorder.record_second();
                sweeper.turn(false, SystemClock.mono());
            }
        })?;
        let sources = Sources {
            ports,
            copies: Arc::clone(&self.copies),
            history,
            names: Arc::clone(&self.names),
            vitals: Arc::clone(&self.vitals),
            output: Arc::default(),
            terms: Arc::new(TermsInForce::new(Terms::of(&plan))),
            reloader: Arc::default(),
            act: Arc::default(),
            dir: "/run/varta".into(),
            run: 1,
            is_raised: [true; 2],
            started: (SystemClock.mono(), SystemClock.wall()),
            address: Some(address),
            plan,
        };
        self.http = Some(Http::spawn(sources, listeners, Arc::new(Mutex::new(None)), heard)?);
        Ok(address)
    }
}
