//! Finds environment variables that look like options and name none.

use clap::Command;

const PREFIX: &str = "GATEWAY_";

/// Not options: the build reads one, and CGI sets the other.
const NO_OPTIONS: [&str; 2] = ["GATEWAY_COMMIT", "GATEWAY_INTERFACE"];
/// Kubernetes and Docker set variables with these parts for each service whose name begins with `gateway`.
const OF_SERVICES: [&str; 4] = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_", "_ENV_"];

/// More differences than these are no slip of the pen.
const MAX_DISTANCE: usize = 3;

/// Returns a line for each variable whose name begins like an option's, though no option has that name. `is_named`: whether
/// an option takes a credential from the variable.
pub(super) fn strange(
    command: &Command,
    variables: impl Iterator<Item = String>,
    is_named: impl Fn(&str) -> bool,
) -> Vec<String> {
    let options: Vec<&str> =
        command.get_arguments().filter_map(|option| option.get_env()).filter_map(|name| name.to_str()).collect();
    let is_strange = |name: &String| {
        name.starts_with(PREFIX)
            && !options.contains(&name.as_str())
            && !NO_OPTIONS.contains(&name.as_str())
            && !OF_SERVICES.iter().any(|part| name.contains(part))
            && !name.ends_with("_PORT")
            && !is_named(name)
    };
    let mut strange: Vec<String> = variables.filter(is_strange).collect();
    strange.sort_unstable();
    let nearest = |name: &str| {
        let near = options.iter().map(|option| (strsim::damerau_levenshtein(name, option), *option)).min()?;
        (near.0 <= MAX_DISTANCE).then_some(near.1)
    };
    let line = |name: String| match nearest(&name) {
        Some(option) => format!("{name} in the environment is no option; is it {option}?"),
        None => format!("{name} in the environment is no option; see --help"),
    };
    strange.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Args;
    use super::*;

    #[test]
    fn a_slip_is_noticed_and_what_others_set_is_not() {
        let names = [
            "GATEWAY_FRIST_BYTE_TIMEOUT",
            "GATEWAY_UPSTREAM",
            "GATEWAY_KEY_OF_OURS",
            "GATEWAY_SOMETHING_ELSE",
            "GATEWAY_PORT_80_TCP_ADDR",
            "GATEWAY_PORT",
            "GATEWAY_SERVICE_HOST",
            "GATEWAY_ADMIN_SERVICE_PORT_HTTP",
            "GATEWAY_ADMIN_PORT_9090_TCP_ADDR",
            "GATEWAY_INTERFACE",
            "GATEWAY_COMMIT",
            "PATH",
        ];
        let lines =
            strange(&Args::command(), names.map(str::to_owned).into_iter(), |name| name == "GATEWAY_KEY_OF_OURS");
        assert_eq!(
            lines,
            [
                "GATEWAY_FRIST_BYTE_TIMEOUT in the environment is no option; is it GATEWAY_FIRST_BYTE_TIMEOUT?",
                "GATEWAY_SOMETHING_ELSE in the environment is no option; see --help",
            ]
        );
    }
}
