//! The writing side of a run folder: created with its ledger before the first worker, appended to round by round, one
//! process at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs4::FileExt;
use stepwatch_record::ceiling::Ceilings;
use stepwatch_record::line;
use stepwatch_record::plan::PlanFile;
use stepwatch_record::profile::Profile;
use stepwatch_record::run::{RoundRecord, RunManifest, Sample};

use super::{CEILINGS, LOCK, MANIFEST, PLANS, PROFILES, ROUNDS, SAMPLES, StoreError, samples, sync_folder, write_json};

/// A run folder being written. Holds its lock until dropped; the operating system frees it when the process dies.
#[derive(Debug)]
pub struct RunWriter {
    folder: PathBuf,
    rounds: File,
    samples: File,
    samples_end: u64,
    _lock: File,
}

/// What was cut from a folder whose writer was killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// One line for the user.
    pub what: String,
}

impl RunWriter {
    /// Creates the folder of a new run with its ledger.
    ///
    /// # Errors
    /// When it cannot be created; an existing run is never written over.
    pub fn create(folder: &Path, manifest: &RunManifest) -> Result<Self, StoreError> {
        fs::create_dir_all(folder.join(PLANS)).map_err(|error| StoreError::io(folder, "created", error))?;
        if folder.join(MANIFEST).exists() {
            let why = "it holds a run already".to_owned();
            return Err(StoreError::Damaged { path: folder.to_owned(), why });
        }
        let lock = lock(folder)?;
        write_json(&folder.join(MANIFEST), manifest)?;
        let mut writer = Self::open_files(folder, lock)?;
        writer.samples.write_all(samples::HEADER.as_bytes()).map_err(|e| writer.error(SAMPLES, e))?;
        writer.samples.sync_data().map_err(|e| writer.error(SAMPLES, e))?;
        writer.samples_end = samples::HEADER.len() as u64;
        sync_folder(folder).map_err(|error| StoreError::io(folder, "written", error))?;
        Ok(writer)
    }

    /// Opens a run to go on with it, and cuts what its last writer did not finish.
    ///
    /// # Errors
    /// When another process writes it, or it cannot be written.
    pub fn reopen(folder: &Path) -> Result<(Self, Vec<Torn>), StoreError> {
        let lock = lock(folder)?;
        let mut writer = Self::open_files(folder, lock)?;
        let mut torn = Vec::new();
        let bytes =
            fs::read(folder.join(ROUNDS)).map_err(|error| StoreError::io(&folder.join(ROUNDS), "read", error))?;
        let decoded = line::decode::<RoundRecord>(&bytes);
        if let Some(why) = decoded.torn {
            let cut = bytes.len() - decoded.intact_bytes;
            torn.push(Torn { what: format!("{ROUNDS}: {why}: its last {cut} bytes were cut") });
            let intact = decoded.intact_bytes as u64;
            writer.rounds.set_len(intact).map_err(|error| writer.error(ROUNDS, error))?;
            writer.rounds.sync_all().map_err(|error| writer.error(ROUNDS, error))?;
        }
        writer.cut_samples(&decoded.records, &mut torn)?;
        cut_torn::<Profile>(folder, PROFILES, &mut torn)?;
        cut_torn::<Ceilings>(folder, CEILINGS, &mut torn)?;
        Ok((writer, torn))
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Appends how a round (or `prepare`) ended, its samples first. When this returns, both are on the disk.
    ///
    /// # Errors
    /// When the disk is full or fails: what was appended before stays readable.
    pub fn append(&mut self, mut record: RoundRecord, samples: &[Sample]) -> Result<RoundRecord, StoreError> {
        let from = self.samples_end;
        let mut to = from;
        if let Some(round) = record.round
            && !samples.is_empty()
        {
            let rows = samples::rows(&record.cell, round, record.attempt, samples);
            to += rows.len() as u64;
            // Bytes that a failed attempt left behind its end are written over, not read.
            self.samples
                .seek(SeekFrom::Start(from))
                .and_then(|_| self.samples.write_all(rows.as_bytes()))
                .and_then(|()| self.samples.sync_data())
                .map_err(|error| self.error(SAMPLES, error))?;
        }
        record.samples_bytes = (from, to);
        let text = line::encode(&record).map_err(|error| self.damaged(ROUNDS, &error))?;
        let before = self.rounds.stream_position().map_err(|error| self.error(ROUNDS, error))?;
        let appended = self.rounds.write_all(text.as_bytes()).and_then(|()| self.rounds.sync_data());
        if let Err(error) = appended {
            // Half a line on a full disk would be torn for every reader; shortening needs no space.
            let _ = self.rounds.set_len(before).and_then(|()| self.rounds.seek(SeekFrom::Start(before)));
            return Err(self.error(ROUNDS, error));
        }
        self.samples_end = to;
        Ok(record)
    }

    /// Stores what `prepare` settled for a cell.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store_plan(&self, plan: &PlanFile) -> Result<(), StoreError> {
        write_json(&self.folder.join(PLANS).join(format!("{}.json", plan.cell.file_stem())), plan)
    }

    /// Appends a cell's profile.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store_profile(&self, profile: &Profile) -> Result<(), StoreError> {
        self.append_line(PROFILES, profile)
    }

    /// Appends what a GPU sustains.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store_ceilings(&self, ceilings: &Ceilings) -> Result<(), StoreError> {
        self.append_line(CEILINGS, ceilings)
    }

    fn append_line<T: serde::Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        let path = self.folder.join(name);
        let text = line::encode(value).map_err(|error| self.damaged(name, &error))?;
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_data()))
            .map_err(|error| StoreError::io(&path, "written", error))
    }

    /// Writes the ledger anew: only ever with more in it, such as the device a worker found.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store_manifest(&self, manifest: &RunManifest) -> Result<(), StoreError> {
        write_json(&self.folder.join(MANIFEST), manifest)
    }

    fn open_files(folder: &Path, lock: File) -> Result<Self, StoreError> {
        let open = |name: &str| {
            let path = folder.join(name);
            let mut options = OpenOptions::new();
            options.create(true).read(true).write(true).truncate(false);
            let mut file = options.open(&path).map_err(|error| StoreError::io(&path, "opened", error))?;
            let end = file.seek(SeekFrom::End(0)).map_err(|error| StoreError::io(&path, "read", error))?;
            Ok::<_, StoreError>((file, end))
        };
        let (rounds, _) = open(ROUNDS)?;
        let (samples, samples_end) = open(SAMPLES)?;
        Ok(Self { folder: folder.to_owned(), rounds, samples, samples_end, _lock: lock })
    }

    /// Cuts samples that no record speaks of: their worker was running when the writer was killed.
    fn cut_samples(&mut self, records: &[RoundRecord], torn: &mut Vec<Torn>) -> Result<(), StoreError> {
        self.rounds.seek(SeekFrom::End(0)).map_err(|error| self.error(ROUNDS, error))?;
        let header = samples::HEADER.len() as u64;
        let recorded = records.iter().map(|record| record.samples_bytes.1).max().unwrap_or(header).max(header);
        if self.samples_end < header {
            self.samples
                .seek(SeekFrom::Start(0))
                .and_then(|_| self.samples.write_all(samples::HEADER.as_bytes()))
                .map_err(|error| self.error(SAMPLES, error))?;
            self.samples_end = header;
        }
        if self.samples_end > recorded {
            let cut = self.samples_end - recorded;
            torn.push(Torn { what: format!("{SAMPLES}: {cut} bytes of a round without a record were cut") });
            self.samples.set_len(recorded).map_err(|error| self.error(SAMPLES, error))?;
            self.samples.sync_all().map_err(|error| self.error(SAMPLES, error))?;
            self.samples_end = recorded;
        }
        Ok(())
    }

    fn error(&self, name: &str, source: std::io::Error) -> StoreError {
        StoreError::io(&self.folder.join(name), "written", source)
    }

    fn damaged(&self, name: &str, error: &serde_json::Error) -> StoreError {
        StoreError::Damaged { path: self.folder.join(name), why: error.to_string() }
    }
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK);
    let file = File::create(&path).map_err(|error| StoreError::io(&path, "opened", error))?;
    match FileExt::try_lock(&file) {
        Ok(()) => Ok(file),
        Err(fs4::TryLockError::WouldBlock) => Err(StoreError::Locked { path: folder.to_owned() }),
        Err(fs4::TryLockError::Error(error)) => Err(StoreError::io(&path, "locked", error)),
    }
}

fn cut_torn<T: serde::de::DeserializeOwned>(folder: &Path, name: &str, torn: &mut Vec<Torn>) -> Result<(), StoreError> {
    let path = folder.join(name);
    let Ok(bytes) = fs::read(&path) else { return Ok(()) };
    let decoded = line::decode::<T>(&bytes);
    let Some(why) = decoded.torn else { return Ok(()) };
    torn.push(Torn { what: format!("{name}: {why}: it and all after it were cut") });
    OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_len(decoded.intact_bytes as u64))
        .map_err(|error| StoreError::io(&path, "written", error))
}
