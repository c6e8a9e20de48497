//! Questions of a server to its client, in each form that a revision has: a request of its own (to
//! 2025-11-25), the error -32042 with a list of addresses (2025-11-25), the inputs that a result or a task
//! asks for (SEP-2322, SEP-2663).
//!
//! A repeated key, or one in another case, is an error: a lenient client might read it otherwise.

use super::{Unreadable, text};
use crate::json::Value;
use crate::json::keys::disguised_as;

/// Ability of a client that a question needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Form,
    Url,
    Sampling,
    Roots,
    /// None that a client could have.
    Other,
}

/// Set of abilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs(u8);

impl Needs {
    pub fn add(&mut self, need: Need) {
        self.0 |= match need {
            Need::Form => 1,
            Need::Url => 2,
            Need::Sampling => 4,
            Need::Roots => 8,
            Need::Other => 16,
        };
    }

    /// Returns what is in either.
    #[must_use]
    pub fn or(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// Reports whether all of `wanted` is in it.
    pub fn cover(self, wanted: Self) -> bool {
        wanted.0 & !self.0 == 0
    }

    pub fn bits(self) -> u8 {
        self.0
    }

    pub fn of_bits(bits: u8) -> Self {
        Self(bits)
    }
}

impl FromIterator<Need> for Needs {
    fn from_iter<I: IntoIterator<Item = Need>>(needs: I) -> Self {
        let mut all = Self::default();
        needs.into_iter().for_each(|need| all.add(need));
        all
    }
}

/// Questions of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Questions {
    /// State that the next round brings.
    pub state: Option<String>,
    pub needs: Needs,
    /// Addresses to which the questions send people; none for one that is no text.
    pub urls: Vec<Option<String>>,
    /// Names and titles of the fields of forms.
    pub fields: Vec<String>,
    /// True if a form has a field for a password.
    pub wants_password: bool,
}

impl Questions {
    /// Adds a question that is a request, or has the form of one.
    fn add(&mut self, method: Option<&str>, question: Value<'_>) -> Result<(), Unreadable> {
        let need = match method {
            Some("elicitation/create") => {
                if let Some(params) = one(question, "params")? {
                    return self.elicits(params);
                }
                Need::Form
            }
            Some("sampling/createMessage") => Need::Sampling,
            Some("roots/list") => Need::Roots,
            Some(_) | None => Need::Other,
        };
        self.needs.add(need);
        Ok(())
    }

    fn elicits(&mut self, params: Value<'_>) -> Result<(), Unreadable> {
        let need = match one(params, "mode")?.map(|mode| text(Some(mode))) {
            None => Need::Form,
            Some(Some(mode)) if mode == "form" => Need::Form,
            Some(Some(mode)) if mode == "url" => Need::Url,
            Some(_) => Need::Other,
        };
        self.needs.add(need);
        if need == Need::Url {
            self.urls.push(text(one(params, "url")?));
        } else if let Some(schema) = one(params, "requestedSchema")? {
            self.form(schema);
        }
        Ok(())
    }

    /// Adds the fields that a schema describes, at whichever depth.
    fn form(&mut self, schema: Value<'_>) {
        let is_choice = schema.get("const").is_some();
        for entry in schema.entries() {
            let (key, value) = (entry.key(), entry.value);
            match &*key {
                "properties" => self.fields.extend(value.entries().map(|field| field.key().into())),
                "title" if !is_choice => self.fields.extend(text(Some(value))),
                "format" => {
                    self.wants_password |= value.as_str().as_deref() == Some("password");
                }
                _ => {}
            }
            self.form(value);
        }
        schema.items().for_each(|item| self.form(item));
    }

    /// Adds each question of `inputRequests`.
    pub(super) fn inputs(&mut self, asked: Value<'_>) -> Result<(), Unreadable> {
        for question in asked.entries().map(|entry| entry.value) {
            let method = text(one(question, "method")?);
            self.add(method.as_deref(), question)?;
        }
        Ok(())
    }
}

/// Returns what a message asks outside its `result`: as a request, in the error -32042, or for a task
/// that it announces.
pub fn asked_by(message: Value<'_>) -> Result<Option<Questions>, Unreadable> {
    let (mut asked, mut any) = (Questions::default(), false);
    let data = one(message, "error")?.map(|error| one(error, "data")).transpose()?.flatten();
    if let Some(list) = data.map(|data| one(data, "elicitations")).transpose()?.flatten() {
        any = true;
        for page in list.items() {
            asked.needs.add(Need::Url);
            asked.urls.push(text(one(page, "url")?));
        }
    }
    let (method, params) = (text(one(message, "method")?), one(message, "params")?);
    if let Some(method) = method.filter(|method| is_question(method))
        && one(message, "id")?.is_some()
    {
        any = true;
        asked.add(Some(&method), message)?;
    }
    if let Some(inputs) = params.map(|params| one(params, "inputRequests")).transpose()?.flatten() {
        any = true;
        asked.inputs(inputs)?;
    }
    Ok(any.then_some(asked))
}

/// Reports whether a request of a server puts a question to its client.
fn is_question(method: &str) -> bool {
    matches!(method, "elicitation/create" | "sampling/createMessage" | "roots/list")
}

/// Returns the member called `key`, which no other one may be mistaken for.
fn one<'d>(object: Value<'d>, key: &'static str) -> Result<Option<Value<'d>>, Unreadable> {
    let mut found = None;
    for entry in object.entries() {
        let name = entry.key();
        if name == key {
            if found.replace(entry.value).is_some() {
                return Err(Unreadable::Twice(key));
            }
        } else if disguised_as(&name, &[key]).is_some() {
            return Err(Unreadable::Disguised(key));
        }
    }
    Ok(found)
}
