//! Costs of `tower-buttress` beside its peers, in the same run.
