//! Scope `image`: every executable of the image, so that only what the image does not have is refused.

use std::collections::{BTreeMap, BTreeSet};

use lattice_policy::{FilePath, Origin, Role};

use crate::{
    entries::is_multicall,
    layer::{ElfInterpreter, FileContent},
    path, shebang,
    tree::{FileId, Found, ImageTree},
    walk::Use,
};

/// Every ELF file and script with an execute permission may start, from anywhere; loaders only as loaders.
pub(crate) fn uses(tree: &ImageTree) -> Vec<Use> {
    let mut found = Vec::new();
    let executables: Vec<(FilePath, FileId)> = tree
        .files()
        .into_iter()
        .filter(|(_, file)| {
            tree.facts(*file).is_executable() && !matches!(tree.facts(*file).content, FileContent::Other(_))
        })
        .collect();
    // Interpreters by the paths that files name.
    let mut loaders: BTreeSet<FilePath> = BTreeSet::new();
    let mut script_interpreters: BTreeSet<FilePath> = BTreeSet::new();
    for (_, file) in &executables {
        match &tree.facts(*file).content {
            FileContent::Elf {
                interpreter: ElfInterpreter::Path(path),
            } => _ = loaders.insert(path.clone()),
            FileContent::Script(text) => {
                script_interpreters.extend(shebang::parse(&text.bytes).map(|line| line.interpreter))
            }
            _ => {}
        }
    }
    let root = FilePath::from("/");
    let mut loader_files: BTreeSet<FileId> = BTreeSet::new();
    let named = [
        (Role::ElfInterpreter, &loaders),
        (Role::ScriptInterpreter, &script_interpreters),
    ];
    for (role, paths) in named {
        for path in paths {
            let path = path::absolute(&root, path.as_bytes());
            let Ok(Found::File { file, real_path, .. }) = tree.look_up(&path) else {
                continue;
            };
            if !tree.facts(file).is_executable() {
                continue;
            }
            if role == Role::ElfInterpreter {
                loader_files.insert(file);
            }
            found.push(one(
                file,
                path,
                real_path,
                role,
                "an executable of the image names it as interpreter",
            ));
        }
    }
    for (path, file) in &executables {
        if loader_files.contains(file) || path::is_loader_name(path) {
            if !loader_files.contains(file) {
                found.push(one(
                    *file,
                    path.clone(),
                    path.clone(),
                    Role::ElfInterpreter,
                    "ELF loader by its name",
                ));
            }
            continue;
        }
        found.push(one(
            *file,
            path.clone(),
            path.clone(),
            Role::Target,
            "executable of the image",
        ));
    }
    found.extend(applets(tree, &executables));
    found
}

/// All names of multicall programs: hard links, and symbolic links that lead to one.
fn applets(tree: &ImageTree, executables: &[(FilePath, FileId)]) -> Vec<Use> {
    let multicall: BTreeMap<FileId, &FilePath> = executables
        .iter()
        .filter(|(_, file)| is_multicall(tree, *file))
        .map(|(path, file)| (*file, path))
        .collect();
    if multicall.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (file, first) in &multicall {
        for name in tree.names(*file) {
            found.push(one(
                *file,
                name.clone(),
                (*first).clone(),
                Role::Target,
                "executable of the image",
            ));
        }
    }
    for link in tree.symlinks() {
        if let Ok(Found::File { file, .. }) = tree.look_up(&link)
            && let Some(first) = multicall.get(&file)
        {
            found.push(one(
                file,
                link,
                (*first).clone(),
                Role::Target,
                "link to an executable of the image",
            ));
        }
    }
    found
}

fn one(file: FileId, path: FilePath, real_path: FilePath, role: Role, reason: &str) -> Use {
    Use {
        file,
        path,
        real_path,
        role,
        from: Origin::Any,
        chain: vec![format!("scope image: {reason}")],
    }
}
