//! Denials that are there before anybody is asked, and the node's own file from then on.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use lattice_agent::{
    denials::{Denials, FileDenials},
    denylist::DenylistFile,
    notices::NoticeSender,
    state::Shared,
    uplink::{denylist::CentralDenylist, last_good},
};
use lattice_api::v1::Denial;
use lattice_policy::{Denied, FileDigest};

use crate::cli::Settings;

/// The node's own list, where there is one.
pub(super) struct NodeDenylist {
    file: Option<DenylistFile>,
    source: String,
    kill_running: bool,
}

impl NodeDenylist {
    /// Puts in force what the file says now and what central said last.
    ///
    /// # Errors
    /// When the file cannot be read: without its list a node must not start as if there were none.
    pub(super) fn begin(settings: &Settings, state: &Arc<Shared>, notices: Arc<NoticeSender>) -> Result<Self> {
        state.set_denials(Denials::new(notices));
        let mut denylist = Self {
            file: settings.denylist.clone().map(DenylistFile::new),
            source: settings
                .denylist
                .as_deref()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
            kill_running: settings.kill_denied,
        };
        let file = denylist.refresh()?.unwrap_or_default();
        let central = match settings.central {
            Some(_) => kept(&settings.state, state)?,
            None => CentralDenylist::default(),
        };
        let denials = state.denials().context("denials have a place since a moment ago")?;
        denials
            .begin(state, file, central)
            .map_err(anyhow::Error::msg)
            .context("the denylist cannot be put in force")?;
        Ok(denylist)
    }

    /// Whether there is a file to look at.
    pub(super) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Takes up a change of the file.
    pub(super) fn look(&mut self, state: &Shared) {
        let changed = match (self.refresh(), state.denials()) {
            (Ok(Some(file)), Some(denials)) => denials.set_file(state, file),
            (Ok(_), _) => Ok(()),
            (Err(error), _) => Err(format!("{error:#}")),
        };
        if let Err(error) = changed {
            tracing::error!(error, "the denylist that was in force stays");
        }
    }

    fn refresh(&mut self) -> Result<Option<FileDenials>> {
        let Some(file) = &mut self.file else { return Ok(None) };
        let list = file.refresh()?;
        Ok(list.map(|list| FileDenials {
            source: self.source.clone(),
            list,
            kill_running: self.kill_running,
        }))
    }
}

/// What central said last. Where that is damaged, the files that the kernel side still holds stay denied until central speaks.
fn kept(folder: &Path, state: &Shared) -> Result<CentralDenylist> {
    match last_good::load_denylist(folder) {
        Ok(Some(message)) => {
            let (list, problems) = CentralDenylist::read(&message);
            if !problems.is_empty() {
                tracing::error!(
                    problems,
                    "not all of the denylist that was kept from central is understood"
                );
            }
            Ok(list)
        }
        Ok(None) => Ok(CentralDenylist::default()),
        Err(error) => {
            tracing::error!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "the denylist that was kept from central is not used; denied files that the kernel still holds stay denied until central \
                 is there"
            );
            let files = state.enforcement().denied_files()?;
            Ok(CentralDenylist {
                revision: 0,
                denials: files.into_iter().map(still_held).collect(),
            })
        }
    }
}

fn still_held(digest: FileDigest) -> (Denied, Denial) {
    let denied = Denied::File(digest);
    let denial = Denial {
        kind: denied.kind().into(),
        digest: denied.digest(),
        reason: "held by the kernel since an earlier start".into(),
        ..Denial::default()
    };
    (denied, denial)
}
