//! A list of names that sessions share: those that were given the same list have one in memory.

use std::ops::Deref;
use std::sync::{Arc, Weak};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Never changes. One pointer wide, as a session has five of them and most are empty; the empty list
/// takes no memory of its own.
#[derive(Clone, Debug, Default)]
pub struct Names(Option<Arc<Box<[String]>>>);

/// A list for as long as someone has it.
#[derive(Clone, Debug)]
pub struct WeakNames(Weak<Box<[String]>>);

impl Names {
    /// Reports whether both are the same list in memory.
    pub fn same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// None of the empty list, which is one anyway.
    pub fn downgrade(&self) -> Option<WeakNames> {
        self.0.as_ref().map(|names| WeakNames(Arc::downgrade(names)))
    }
}

impl WeakNames {
    pub fn upgrade(&self) -> Option<Names> {
        self.0.upgrade().map(|names| Names(Some(names)))
    }
}

impl Deref for Names {
    type Target = [String];

    fn deref(&self) -> &[String] {
        self.0.as_ref().map_or(&[], |names| names)
    }
}

impl From<Vec<String>> for Names {
    fn from(names: Vec<String>) -> Self {
        Self((!names.is_empty()).then(|| Arc::new(names.into())))
    }
}

impl FromIterator<String> for Names {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Vec::from_iter(names).into()
    }
}

impl<const N: usize> From<[String; N]> for Names {
    fn from(names: [String; N]) -> Self {
        Vec::from(names).into()
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Names {}

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_as_it_was_written() {
        for text in ["[]", r#"["a"]"#, r#"["a","b \"c\"",""]"#] {
            let names: Names = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&names).unwrap(), text);
        }
        assert!(serde_json::from_str::<Names>("[1]").is_err());
    }

    #[test]
    fn equal_lists_are_the_same_only_if_they_are_shared() {
        let list = || Names::from(["a".to_owned()]);
        let (one, other) = (list(), list());
        assert_eq!(one, other);
        assert!(!one.same(&other) && one.same(&one.clone()));
        assert!(!one.same(&Names::default()) && Names::default().same(&Vec::new().into()));
        let weak = one.downgrade().unwrap();
        assert!(weak.upgrade().unwrap().same(&one));
        drop(one);
        assert!(weak.upgrade().is_none() && Names::default().downgrade().is_none());
    }
}
