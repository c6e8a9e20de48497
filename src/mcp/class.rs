//! Method classes: what a method touches, and so which grant it needs.

/// Class of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Runs a tool, named by `params.name`.
    Tool,
    /// Reaches a resource, named by `params.uri`.
    Resource,
    /// Reaches a prompt, named by `params.name`.
    Prompt,
    /// Reaches what `params.ref` names: a prompt or a resource.
    Completion,
    /// Reaches a task, named by `params.taskId`.
    Task,
    /// Keeps the conversation going and reaches nothing by itself.
    Protocol,
    /// Anything else: granted by the method's own name.
    Other,
}

impl Class {
    /// The class of `method`; names are compared byte for byte.
    pub fn of(method: &str) -> Self {
        match method {
            "tools/call" => Self::Tool,
            "resources/read"
            | "resources/subscribe"
            | "resources/unsubscribe"
            | "resources/directory/read"
            | "skills/get" => Self::Resource,
            "prompts/get" => Self::Prompt,
            "completion/complete" => Self::Completion,
            "tasks/get" | "tasks/update" | "tasks/cancel" | "tasks/result" => Self::Task,
            "initialize"
            | "ping"
            | "server/discover"
            | "logging/setLevel"
            | "tools/list"
            | "resources/list"
            | "resources/templates/list"
            | "prompts/list"
            | "skills/list"
            | "tasks/list" => Self::Protocol,
            _ if method.starts_with("notifications/") => Self::Protocol,
            _ => Self::Other,
        }
    }
}

/// Reports whether a request may be sent again when its connection died: it asks and changes
/// nothing, or begins again what nobody has seen the beginning of.
pub fn is_repeatable(method: &str) -> bool {
    matches!(
        method,
        "initialize"
            | "ping"
            | "server/discover"
            | "tools/list"
            | "resources/list"
            | "resources/templates/list"
            | "prompts/list"
            | "skills/list"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_nothing_is_repeatable() {
        assert!(is_repeatable("tools/list") && is_repeatable("ping"));
        for method in ["tools/call", "resources/read", "logging/setLevel", "notifications/x", ""] {
            assert!(!is_repeatable(method), "{method}");
        }
    }

    #[test]
    fn methods_fall_into_the_classes_of_the_contract() {
        let table: &[(Class, &[&str])] = &[
            (Class::Tool, &["tools/call"]),
            (
                Class::Resource,
                &[
                    "resources/read",
                    "resources/subscribe",
                    "resources/unsubscribe",
                    "resources/directory/read",
                    "skills/get",
                ],
            ),
            (Class::Prompt, &["prompts/get"]),
            (Class::Completion, &["completion/complete"]),
            (
                Class::Protocol,
                &[
                    "initialize",
                    "notifications/initialized",
                    "notifications/cancelled",
                    "notifications/anything",
                    "ping",
                    "server/discover",
                    "logging/setLevel",
                    "tools/list",
                    "resources/list",
                    "resources/templates/list",
                    "prompts/list",
                    "skills/list",
                    "tasks/list",
                ],
            ),
            (Class::Task, &["tasks/get", "tasks/update", "tasks/cancel", "tasks/result"]),
            (
                Class::Other,
                &[
                    "subscriptions/listen",
                    "tasks/other",
                    "sampling/createMessage",
                    "roots/list",
                    "Tools/Call",
                    "tools/call ",
                    "tools/list2",
                    "skills/read",
                    "Notifications/initialized",
                    "notifications",
                    "rpc.discover",
                ],
            ),
        ];
        for (class, methods) in table {
            for method in *methods {
                assert_eq!(Class::of(method), *class, "{method}");
            }
        }
    }
}
