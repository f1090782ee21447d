//! Pairs each `--fallback-..` option with its fallback.

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::upstreams::{BackupArgs, UpstreamArgs};

/// For each value of an option, the index of its fallback in the chain.
pub(super) struct Pairs {
    models: Vec<Option<usize>>,
    weights: Vec<Option<usize>>,
    authorizations: Vec<Option<usize>>,
    headers: Vec<Option<usize>>,
}

// === impl Pairs ===

impl Pairs {
    /// On the command line an option belongs to the fallback before it, or to the only fallback. In the environment the
    /// n-th value belongs to the n-th fallback.
    pub(super) fn of(matches: &ArgMatches) -> Self {
        let starts: Vec<usize> = matches.indices_of("fallback").into_iter().flatten().collect();
        let places = |option: &str| -> Vec<Option<usize>> {
            let indices = matches.indices_of(option).into_iter().flatten();
            if starts.len() == 1 {
                return indices.map(|_| Some(0)).collect();
            }
            if matches.value_source(option) == Some(ValueSource::EnvVariable) {
                return (0..indices.count()).map(|nth| (nth < starts.len()).then_some(nth)).collect();
            }
            indices.map(|index| starts.iter().filter(|start| **start < index).count().checked_sub(1)).collect()
        };
        Self {
            models: places("fallback_model"),
            weights: places("fallback_weight"),
            authorizations: places("fallback_authorization_env"),
            headers: places("fallback_header"),
        }
    }

    /// The chain. The error is one line.
    pub(super) fn backups(&self, args: &UpstreamArgs) -> Result<Vec<BackupArgs>, String> {
        let mut backups: Vec<BackupArgs> =
            (1..).zip(&args.fallback).map(|(nth, url)| BackupArgs::new(nth, url)).collect();
        let place = |place: Option<usize>, option: &str| {
            place.ok_or_else(|| format!("{option} must follow the --fallback that it belongs to"))
        };
        for (model, at) in args.fallback_model.iter().zip(&self.models) {
            let backup = &mut backups[place(*at, "--fallback-model")?];
            if backup.model.replace(model.clone()).is_some() {
                return Err(format!("--fallback-model is given twice for {}", backup.upstream));
            }
        }
        for (weight, at) in args.fallback_weight.iter().zip(&self.weights) {
            let backup = &mut backups[place(*at, "--fallback-weight")?];
            if backup.weight.replace(*weight).is_some() {
                return Err(format!("--fallback-weight is given twice for {}", backup.upstream));
            }
        }
        let (weighted, others): (Vec<_>, Vec<_>) = backups.iter().partition(|backup| backup.weight.is_some());
        if let ([_, ..], [other, ..]) = (weighted.as_slice(), others.as_slice()) {
            return Err(format!(
                "--fallback-weight: give one to all fallbacks or to none; {} has none",
                other.upstream
            ));
        }
        for (credential, at) in args.fallback_authorization_env.iter().zip(&self.authorizations) {
            let backup = &mut backups[place(*at, "--fallback-authorization-env")?];
            backup.credential.push(credential.named());
        }
        for (credential, at) in args.fallback_header.iter().zip(&self.headers) {
            backups[place(*at, "--fallback-header")?].credential.push(credential.clone());
        }
        Ok(backups)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::{Args, Stop};
    use super::*;

    fn read(args: &str) -> Result<Vec<(String, String, usize)>, String> {
        let args = format!("gateway --trust-callers {args}");
        let read = Args::read(args.split_whitespace().map(OsString::from));
        let shown = |backup: &BackupArgs| {
            let model = backup.model.clone().unwrap_or_default();
            (format!("{} {}", backup.name, backup.upstream), model, backup.credential.len())
        };
        match read {
            Ok(args) => Ok(args.upstreams.backups.iter().map(shown).collect()),
            Err(Stop::Wrong(line) | Stop::Unfit(line)) => Err(line),
            Err(Stop::Shown(text)) => panic!("{text}"),
        }
    }

    fn backup(name: &str, model: &str, credentials: usize) -> (String, String, usize) {
        (name.to_owned(), model.to_owned(), credentials)
    }

    #[test]
    fn options_belong_to_the_fallback_before_them() {
        // A variable that always exists.
        let chain = "--fallback http://a --fallback-model small --fallback http://b \
                     --fallback-authorization-env CARGO_PKG_NAME --fallback-header x-api-key=CARGO_PKG_NAME";
        let expected = [backup("fallback http://a", "small", 0), backup("fallback-2 http://b", "", 2)];
        assert_eq!(read(chain).unwrap(), expected);
        // With only one fallback, in any order.
        let one = "--fallback-model small --fallback http://a";
        assert_eq!(read(one).unwrap(), [backup("fallback http://a", "small", 0)]);
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn an_option_without_a_fallback_is_a_one_line_error() {
        let before = read("--fallback-model small --fallback http://a --fallback http://b").unwrap_err();
        assert_eq!(before, "--fallback-model must follow the --fallback that it belongs to");
        let unfair = read("--fallback http://a --fallback-weight 1 --fallback http://b").unwrap_err();
        assert_eq!(unfair, "--fallback-weight: give one to all fallbacks or to none; http://b has none");
        let twice = read("--fallback http://a --fallback-model x --fallback-model y").unwrap_err();
        assert_eq!(twice, "--fallback-model is given twice for http://a");
    }
}
