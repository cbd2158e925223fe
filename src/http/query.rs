//! The query of a request: known names, each at most once, values in range.

use std::fmt;

use crate::time::WallNs;

/// The parameters of a request.
#[derive(Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

/// An invalid parameter.
#[derive(Debug, PartialEq, Eq)]
pub struct BadQuery {
    name: String,
    why: String,
    fix: String,
}

impl BadQuery {
    /// `why` it is invalid, and the `fix`: what to write instead.
    pub fn new(name: &str, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name: name.to_owned(), why: why.into(), fix: fix.into() }
    }
}

impl fmt::Display for BadQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot use parameter {:?}: {}; {}", self.name, self.why, self.fix)
    }
}

impl Query {
    /// Splits the query into its parameters.
    pub fn parse(text: &str) -> Self {
        Self { pairs: form_urlencoded::parse(text.as_bytes()).into_owned().collect() }
    }

    /// Refuses other names than these, and repeated ones.
    ///
    /// # Errors
    /// The first invalid parameter.
    pub fn allows(&self, names: &[&str]) -> Result<(), BadQuery> {
        for (at, (name, _)) in self.pairs.iter().enumerate() {
            if !names.contains(&name.as_str()) {
                let known = if names.is_empty() {
                    "leave it out".to_owned()
                } else {
                    format!("use {}", names.join(", "))
                };
                return Err(BadQuery::new(name, "there is no such parameter", known));
            }
            if self.pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(BadQuery::new(name, "it is given twice", "give it once"));
            }
        }
        Ok(())
    }

    /// The value of a parameter.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A whole number from `min` to `max`.
    ///
    /// # Errors
    /// The value is anything else.
    pub fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, BadQuery> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(BadQuery::new(
                name,
                format!("{text:?} is no number in range"),
                format!("write {min} to {max}"),
            )),
        }
    }

    /// An instant: seconds since 1970, with up to nine decimals.
    ///
    /// # Errors
    /// The value is anything else.
    pub fn instant(&self, name: &str) -> Result<Option<WallNs>, BadQuery> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let (seconds, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let instant = (is_number(seconds) && is_number(decimals) && decimals.len() <= 9)
            .then(|| format!("{seconds}{decimals:0<9}").parse().ok())
            .flatten();
        instant.map(|ns| Some(WallNs(ns))).ok_or_else(|| {
            let fix = "write seconds since 1970, with up to nine decimals";
            BadQuery::new(name, format!("{text:?} is no time"), fix)
        })
    }

    /// One of a few words.
    ///
    /// # Errors
    /// The value is another word.
    pub fn one_of<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, BadQuery> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        found.map(Some).ok_or_else(|| {
            BadQuery::new(name, format!("there is no {text:?}"), format!("write {}", known.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_named() {
        let query = Query::parse("state=stalled&limit=0&comm=a%20b%2A");
        assert_eq!(query.text("comm"), Some("a b*"));
        assert_eq!(query.one_of("state", &[("up", 1), ("stalled", 2)]), Ok(Some(2)));
        assert_eq!(query.one_of::<u8>("sort", &[]), Ok(None));
        assert_eq!(
            query.number("limit", 1, 10).unwrap_err().to_string(),
            "cannot use parameter \"limit\": \"0\" is no number in range; write 1 to 10"
        );
        assert!(query.one_of("state", &[("up", 1)]).unwrap_err().to_string().contains("write up"));
        assert!(query.allows(&["state", "limit"]).unwrap_err().to_string().contains("no such parameter"));
        assert!(query.allows(&["state", "limit", "comm"]).is_ok());
        let instants = Query::parse("a=1772366400&b=1.25&c=1.&d=-1&e=1.0000000001&f=99999999999");
        let instant = |name| instants.instant(name).map(|at| at.map(|at| at.0));
        assert_eq!(instant("a"), Ok(Some(1_772_366_400_000_000_000)));
        assert_eq!((instant("b"), instant("x")), (Ok(Some(1_250_000_000)), Ok(None)));
        for bad in ["c", "d", "e", "f"] {
            assert!(instant(bad).unwrap_err().to_string().contains("is no time; write seconds since 1970"));
        }
        let twice = Query::parse("pid=1&pid=2");
        assert!(twice.allows(&["pid"]).unwrap_err().to_string().contains("twice"));
    }
}
