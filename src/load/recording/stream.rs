//! How is a long recording read? Line by line, from a file that need not fit into memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::{Entry, Parser};
use crate::load::Problem;

/// Largest recording that is read, in bytes: 100 cells for half a year at 2 minutes.
pub const FILE_BYTES_MAX: u64 = 2 << 30;
/// Longest line, in bytes, its line break included.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

const LONG_LINE: &str = "is longer than 65536 bytes: one line is one reading of one cell";
const LONG_FILE: &str = "the recording is larger than 2 GiB: cut it into parts, or sample it more coarsely";

/// Reads the entries of a recording in order of time. After the first problem there is nothing more.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// How problems name it.
    file: PathBuf,
    parser: Parser,
    buffer: Vec<u8>,
    line: usize,
    bytes: u64,
    bytes_max: u64,
    ended: bool,
}

impl Reader<BufReader<File>> {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        let failed = |error| failed(path, error);
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        Ok(Self::new(BufReader::with_capacity(256 * 1024, file), path))
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads from anything; `file` is how problems name it.
    pub fn new(input: R, file: &Path) -> Self {
        Self {
            input,
            file: file.to_owned(),
            parser: Parser::default(),
            buffer: Vec::new(),
            line: 0,
            bytes: 0,
            bytes_max: FILE_BYTES_MAX,
            ended: false,
        }
    }

    /// With another limit of its size, in bytes.
    #[must_use]
    pub fn limited(self, bytes_max: u64) -> Self {
        Self { bytes_max, ..self }
    }

    /// Bytes read so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lines read so far, which is the number of the last entry's line.
    pub const fn line(&self) -> usize {
        self.line
    }

    fn read(&mut self) -> Result<Option<Entry>, Problem> {
        loop {
            self.buffer.clear();
            let mut limited = (&mut self.input).take(LINE_BYTES_MAX as u64 + 1);
            let read = limited.read_until(b'\n', &mut self.buffer).map_err(|error| failed(&self.file, error))?;
            if read == 0 {
                let why = self.parser.end().map(str::to_owned);
                return why.map_or(Ok(None), |why| Err(Problem::Recording { file: self.file.clone(), why }));
            }
            self.line += 1;
            self.bytes += read as u64;
            let too_long = if read > LINE_BYTES_MAX {
                Some(LONG_LINE)
            } else {
                (self.bytes > self.bytes_max).then_some(LONG_FILE)
            };
            if let Some(why) = too_long {
                return Err(self.bad(why.to_owned()));
            }
            let entry = match std::str::from_utf8(&self.buffer) {
                Ok(text) => self.parser.line(text),
                Err(_) => Err("not UTF-8".to_owned()),
            };
            if let Some(entry) = entry.map_err(|why| self.bad(why))? {
                return Ok(Some(entry));
            }
        }
    }

    fn bad(&self, why: String) -> Problem {
        Problem::Line { file: self.file.clone(), line: self.line, why }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Entry, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let entry = self.read().transpose();
        self.ended = !matches!(entry, Some(Ok(_)));
        entry
    }
}

fn failed(path: &Path, error: io::Error) -> Problem {
    Problem::io("read the recording", path, error, "give the path of a CSV or NDJSON file")
}
