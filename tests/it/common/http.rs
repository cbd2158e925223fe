//! HTTP requests to an observer, written byte by byte: an HTTP library would not send the malformed ones.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::{Observer, SOON};

pub struct Connection {
    reader: BufReader<Box<dyn ReadWrite>>,
}

pub trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// A response.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Connection {
    /// Connects to the control socket in this runtime directory.
    pub fn control(dir: &Path) -> Self {
        let stream = UnixStream::connect(dir.join("control.sock")).expect("connect to the control socket");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        Self { reader: BufReader::new(Box::new(stream)) }
    }

    /// Connects to the TCP listener.
    pub fn tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connect to the observer");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        Self { reader: BufReader::new(Box::new(stream)) }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes.as_ref())
    }

    /// Requests a path with additional headers and reads the response.
    pub fn get(&mut self, path: &str, headers: &[&str]) -> Answer {
        self.ask(path, headers);
        self.answer()
    }

    /// Sends a GET request without reading the response.
    pub fn ask(&mut self, path: &str, headers: &[&str]) {
        let more: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")).expect("send a request");
    }

    /// Reads one complete response.
    pub fn answer(&mut self) -> Answer {
        self.try_answer().expect("an answer").expect("an answer before the end")
    }

    /// Reads one response; `None` if the server closed the connection instead.
    pub fn try_answer(&mut self) -> io::Result<Option<Answer>> {
        let Some((code, headers)) = self.head()? else { return Ok(None) };
        let mut body = Vec::new();
        if let Some(length) = headers.get("content-length") {
            body = vec![0; length.parse().expect("a length")];
            self.reader.read_exact(&mut body)?;
        } else if headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
            while let Some(chunk) = self.chunk()? {
                body.extend(chunk);
            }
        }
        Ok(Some(Answer { code, headers, body }))
    }

    /// Reads the head of a response whose body is a stream.
    pub fn head(&mut self) -> io::Result<Option<(u16, BTreeMap<String, String>)>> {
        let Some(status) = self.line()? else { return Ok(None) };
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.unwrap_or_else(|| panic!("no status line: {status:?}"));
        let mut headers = BTreeMap::new();
        while let Some(line) = self.line()?.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no header: {line:?}"));
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        Ok(Some((code, headers)))
    }

    /// Reads one chunk; `None` if it is the last.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size = self.line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("no chunk: {size:?}"));
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk)?;
        chunk.truncate(size);
        Ok((size > 0).then_some(chunk))
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        Ok((self.reader.read_line(&mut line)? > 0).then(|| line.trim_end_matches("\r\n").to_owned()))
    }
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// The body as JSON; the status must be 200.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 200, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The reason in a response that must have this error code.
    pub fn refusal(&self, code: u16) -> String {
        assert_eq!(self.code, code, "{}", self.text());
        let body: Value = serde_json::from_slice(&self.body).expect("refusals are JSON");
        body["error"].as_str().expect("a reason").to_owned()
    }
}

impl Observer {
    /// Sends a GET request on a new connection to the control socket.
    pub fn get(&self, path: &str) -> Answer {
        Connection::control(&self.dir()).get(path, &["Connection: close"])
    }

    /// The address of the observer's TCP listener.
    pub fn http_address(&self) -> SocketAddr {
        let fleet = self.get("/api/v1/fleet").json();
        let address = fleet["http"].as_str().expect("it listens");
        address.parse().expect("an address")
    }
}
