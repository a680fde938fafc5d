//! Which files a dynamic program needs at its start: its ELF interpreter and, transitively, its shared libraries.
//!
//! The search is that of ld.so(8) without its environment variables: `DT_RPATH` of the object and of what loaded it
//! (unless it has a `DT_RUNPATH`), `DT_RUNPATH`, the folders of /etc/ld.so.conf, the default ones. The program is read,
//! never run, so a file of unknown origin does no harm here.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use object::{
    Endianness, FileKind,
    elf::{self, FileHeader64},
    read::elf::{Dyn, FileHeader, ProgramHeader},
};

/// Where the loader looks last. Debian's multi-architecture folders come first, as in its build of glibc.
const DEFAULT_FOLDERS: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];

/// Includes of /etc/ld.so.conf may include each other.
const MAX_CONFIGURATION_FILES: usize = 64;

/// More than any real program has; an object that names more is broken.
const MAX_LIBRARIES: usize = 1024;

/// What the dynamic section of one object says.
#[derive(Debug, Default, PartialEq, Eq)]
struct DynamicNeeds {
    interpreter: Option<PathBuf>,
    libraries: Vec<String>,
    rpath: Vec<String>,
    runpath: Vec<String>,
}

/// Finds libraries in the folders of one machine.
pub(crate) struct LibraryResolver {
    folders: Vec<PathBuf>,
}

impl LibraryResolver {
    /// With the folders that this machine's loader searches.
    pub(crate) fn for_this_machine() -> Self {
        let mut folders = configured_folders(Path::new("/etc/ld.so.conf"));
        folders.extend(DEFAULT_FOLDERS.map(PathBuf::from));
        Self { folders }
    }

    /// The interpreter and all libraries of a program, as absolute paths under the names by which the loader asks for
    /// them. Empty for a static program and for what is not a 64-bit x86 ELF file, scripts included.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, is a broken ELF file, or needs a library that is nowhere.
    pub(crate) fn resolve(&self, program: &Path) -> Result<BTreeSet<PathBuf>> {
        let mut found = BTreeSet::new();
        let Some(needs) = read_needs(program)? else {
            return Ok(found);
        };
        found.extend(needs.interpreter.clone());
        // A library is loaded once under its name; who asks first decides where it is found, as in the loader.
        let mut by_name: BTreeMap<String, PathBuf> = BTreeMap::new();
        let mut queue = vec![(program.to_path_buf(), needs, Vec::new())];
        while let Some((object, needs, inherited_rpath)) = queue.pop() {
            let origin = fs::canonicalize(&object)
                .ok()
                .and_then(|path| path.parent().map(Path::to_path_buf));
            let expand = |entries: &[String]| expand_origin(entries, origin.as_deref());
            let mut rpath = expand(&needs.rpath);
            rpath.extend(inherited_rpath);
            for name in &needs.libraries {
                if by_name.contains_key(name) {
                    continue;
                }
                let before = if needs.runpath.is_empty() {
                    rpath.clone()
                } else {
                    expand(&needs.runpath)
                };
                let path = self
                    .find(name, &before)
                    .with_context(|| format!("needed by {}", object.display()))?;
                if by_name.len() == MAX_LIBRARIES {
                    bail!("{} needs more than {MAX_LIBRARIES} libraries", program.display());
                }
                by_name.insert(name.clone(), path.clone());
                if let Some(needs) = read_needs(&path)? {
                    queue.push((path, needs, rpath.clone()));
                }
            }
        }
        found.extend(by_name.into_values());
        Ok(found)
    }

    fn find(&self, name: &str, before: &[PathBuf]) -> Result<PathBuf> {
        if name.contains('/') {
            return std::path::absolute(name).with_context(|| format!("library {name}"));
        }
        before
            .iter()
            .chain(&self.folders)
            .map(|folder| folder.join(name))
            // The loader passes over a file for another machine, so a 32-bit namesake does not end the search.
            .find(|candidate| matches!(read_needs(candidate), Ok(Some(_))))
            .ok_or_else(|| anyhow!("library {name} is in none of the loader's folders"))
    }
}

/// `$ORIGIN` is the folder of the object that has the entry.
fn expand_origin(entries: &[String], origin: Option<&Path>) -> Vec<PathBuf> {
    let origin = origin
        .map(|path| path.to_string_lossy().into_owned())
        .unwrap_or_default();
    entries
        .iter()
        .map(|entry| PathBuf::from(entry.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin)))
        .collect()
}

/// None for what is not an ELF file for x86-64.
fn read_needs(path: &Path) -> Result<Option<DynamicNeeds>> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse_needs(&content).with_context(|| format!("{} is not a sound ELF file", path.display()))
}

fn parse_needs(content: &[u8]) -> Result<Option<DynamicNeeds>> {
    if FileKind::parse(content).ok() != Some(FileKind::Elf64) {
        return Ok(None);
    }
    let header = FileHeader64::<Endianness>::parse(content)?;
    let endian = header.endian()?;
    if header.e_machine(endian) != elf::EM_X86_64 {
        return Ok(None);
    }
    let mut needs = DynamicNeeds::default();
    let segments = header.program_headers(endian, content)?;
    for segment in segments {
        if let Some(interpreter) = segment.interpreter(endian, content)? {
            needs.interpreter = Some(PathBuf::from(OsStr::from_bytes(interpreter)));
        }
    }
    let Some(entries) = segments
        .iter()
        .find_map(|segment| segment.dynamic(endian, content).transpose())
        .transpose()?
    else {
        return Ok(Some(needs));
    };
    let value_of = |tag: elf::DynamicTag| {
        entries
            .iter()
            .find(|entry| entry.tag(endian) == tag)
            .map(|entry| entry.d_val(endian))
    };
    let (Some(strings_address), Some(strings_size)) = (value_of(elf::DT_STRTAB), value_of(elf::DT_STRSZ)) else {
        return Ok(Some(needs));
    };
    // The table is named by its address in memory; a segment says where in the file that is.
    let strings = segments
        .iter()
        .find_map(|segment| {
            segment
                .data_range(endian, content, strings_address, strings_size)
                .ok()
                .flatten()
        })
        .ok_or_else(|| anyhow!("the dynamic string table at {strings_address:#x} lies in no segment"))?;
    for entry in entries {
        let list = match entry.tag(endian) {
            elf::DT_NEEDED => &mut needs.libraries,
            elf::DT_RPATH => &mut needs.rpath,
            elf::DT_RUNPATH => &mut needs.runpath,
            _ => continue,
        };
        let offset = usize::try_from(entry.d_val(endian))?;
        let tail = strings
            .get(offset..)
            .ok_or_else(|| anyhow!("a dynamic string at {offset} is outside its table"))?;
        let end = tail
            .iter()
            .position(|byte| *byte == 0)
            .ok_or_else(|| anyhow!("a dynamic string has no end"))?;
        let text = std::str::from_utf8(&tail[..end])
            .context("a dynamic string is not UTF-8")?
            .to_owned();
        if entry.tag(endian) == elf::DT_NEEDED {
            list.push(text);
        } else {
            list.extend(text.split(':').filter(|part| !part.is_empty()).map(String::from));
        }
    }
    Ok(Some(needs))
}

/// The folders that a file in the form of /etc/ld.so.conf names, includes followed; none where there is no such file.
fn configured_folders(configuration: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut pending = vec![configuration.to_path_buf()];
    let mut seen = BTreeSet::new();
    while let Some(path) = pending.pop() {
        if !seen.insert(path.clone()) || seen.len() > MAX_CONFIGURATION_FILES {
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if let Some(pattern) = line.strip_prefix("include ") {
                pending.extend(matching_files(path.parent(), pattern.trim()).into_iter().rev());
            } else if line.starts_with('/') {
                folders.push(PathBuf::from(line));
            }
        }
    }
    folders
}

/// The files of an `include` line. Only the form that distributions use, `FOLDER/*.conf`, has its star expanded.
fn matching_files(relative_to: Option<&Path>, pattern: &str) -> Vec<PathBuf> {
    let path = relative_to.unwrap_or(Path::new("/")).join(pattern);
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
        return Vec::new();
    };
    let Some((prefix, suffix)) = name.split_once('*') else {
        return vec![path];
    };
    let mut files: Vec<PathBuf> = folder
        .read_dir()
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(prefix) && name.ends_with(suffix)
        })
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::{process, workspace};

    /// The loader itself is the reference: `ldd` prints what it would map.
    fn ldd(program: &Path) -> BTreeSet<String> {
        let output = process::capture(Command::new("ldd").arg(program)).unwrap();
        output
            .lines()
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
            .filter_map(|path| Path::new(path).file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    #[track_caller]
    fn check_same_as_ldd(program: &str) {
        let program = workspace::find_program(program).unwrap_or_else(|| panic!("no {program} on this machine"));
        let found = LibraryResolver::for_this_machine().resolve(&program).unwrap();
        let names = found
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(ldd(&program), names, "{}", program.display());
        for path in &found {
            assert!(path.is_file(), "{} is not there", path.display());
        }
    }

    #[test]
    fn finds_what_the_loader_finds() {
        for program in ["ls", "tar", "apt-get", "gcc", "cargo"] {
            check_same_as_ldd(program);
        }
    }

    #[test]
    fn a_static_program_and_a_script_need_nothing() {
        let resolver = LibraryResolver::for_this_machine();
        for name in ["busybox", "ldd"] {
            let program = workspace::find_program(name).unwrap_or_else(|| panic!("no {name} on this machine"));
            assert_eq!(resolver.resolve(&program).unwrap(), BTreeSet::new(), "{name}");
        }
    }

    #[test]
    fn a_missing_library_names_itself_and_who_needs_it() {
        let program = workspace::find_program("ls").unwrap();
        let error = LibraryResolver {
            folders: vec!["/nonexistent".into()],
        }
        .resolve(&program)
        .unwrap_err();
        let message = format!("{error:#}");
        assert!(
            message.contains("libselinux.so") || message.contains("libc.so.6"),
            "{message}"
        );
        assert!(message.contains("/ls"), "{message}");
    }

    #[test]
    fn an_elf_file_cut_anywhere_is_an_error_or_nothing_but_no_panic() {
        let program = workspace::find_program("ls").unwrap();
        let whole = fs::read(program).unwrap();
        assert!(!parse_needs(&whole).unwrap().unwrap().libraries.is_empty());
        for length in (0..whole.len()).step_by(whole.len() / 200 + 1) {
            if let Ok(Some(needs)) = parse_needs(&whole[..length]) {
                assert!(needs.libraries.len() < 100, "{length} bytes make {needs:?}");
            }
        }
    }

    #[test]
    fn origin_is_the_folder_of_the_object() {
        let entries = ["$ORIGIN/../lib".to_owned(), "${ORIGIN}".to_owned(), "/opt".to_owned()];
        let expanded = expand_origin(&entries, Some(Path::new("/app/bin")));
        assert_eq!(expanded, ["/app/bin/../lib", "/app/bin", "/opt"].map(PathBuf::from));
    }

    #[test]
    fn configuration_includes_are_followed_and_a_cycle_ends() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("main.conf", "include parts-*.conf\n/last # why\n");
        write("parts-a.conf", "/first\n# /never\ninclude main.conf\n");
        write("parts-b.conf", "/second\n");
        let folders = configured_folders(&folder.path().join("main.conf"));
        for expected in ["/first", "/second", "/last"] {
            assert!(
                folders.contains(&PathBuf::from(expected)),
                "{expected} is missing from {folders:?}"
            );
        }
        assert!(!folders.contains(&PathBuf::from("/never")));
    }
}
