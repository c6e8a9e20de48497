//! Changes of lists that a client is notified about.

/// Kinds of lists whose changes a client is notified about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListChanges(u8);

impl ListChanges {
    const TOOLS: u8 = 1;
    const PROMPTS: u8 = 2;
    const RESOURCES: u8 = 4;

    pub fn new(tools: bool, prompts: bool, resources: bool) -> Self {
        let bit = |is: bool, bit: u8| if is { bit } else { 0 };
        Self(
            bit(tools, Self::TOOLS) | bit(prompts, Self::PROMPTS) | bit(resources, Self::RESOURCES),
        )
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the kinds that are in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Removes one kind and returns the method that notifies about its changes.
    pub fn pop(&mut self) -> Option<&'static str> {
        let (bit, method) = match self.0 {
            0 => return None,
            bits if bits & Self::TOOLS != 0 => (Self::TOOLS, "notifications/tools/list_changed"),
            bits if bits & Self::PROMPTS != 0 => {
                (Self::PROMPTS, "notifications/prompts/list_changed")
            }
            _ => (Self::RESOURCES, "notifications/resources/list_changed"),
        };
        self.0 &= !bit;
        Some(method)
    }
}
