//! The JSON Schema of the scenario file, made of the tables that the reader itself reads by: what an editor completes is
//! what `check` accepts.

use serde_json::{Map, Value, json};
use stepwatch_model::config::PRESETS;
use stepwatch_record::Scalar;

use super::builtin::{Accepts, PARAMETERS, Parameter};
use super::keys::{self, Holds, Key};

/// The schema.
#[must_use]
pub fn schema() -> Value {
    let table = |name: &str| keys::TABLES.iter().find(|(table, _)| *table == name).map_or("", |(_, doc)| doc);
    let described = |mut value: Value, name: &str| {
        value["description"] = table(name).into();
        value
    };
    let mut properties = Map::new();
    properties.insert("scenario".into(), described(object(keys::SCENARIO), "scenario"));
    properties
        .insert("matrix".into(), described(json!({"type": "array", "minItems": 1, "items": axes(true)}), "matrix"));
    properties.insert("exclude".into(), described(json!({"type": "array", "items": axes(true)}), "exclude"));
    properties.insert("step".into(), described(axes(false), "step"));
    properties.insert("models".into(), described(named(keys::MODEL), "models"));
    properties.insert("workloads".into(), described(named(keys::WORKLOAD), "workloads"));
    properties.insert("measure".into(), described(object(keys::MEASURE), "measure"));
    properties.insert("claim".into(), described(json!({"type": "array", "items": object(keys::CLAIM)}), "claim"));
    properties.insert("policy".into(), described(object(keys::POLICY), "policy"));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Stepwatch scenario",
        "description": "Which cells are measured, how, and what is claimed of them.",
        "type": "object",
        "additionalProperties": false,
        "required": ["matrix"],
        "properties": properties,
    })
}

/// The schema of `waivers.toml`.
#[must_use]
pub fn waivers() -> Value {
    list_of(
        "waiver",
        "Stepwatch waivers",
        "Regressions that are known: up to a limit and a day they fail no run.",
        keys::WAIVER,
    )
}

/// The schema of `annotations.toml`.
#[must_use]
pub fn annotations() -> Value {
    list_of(
        "annotation",
        "Stepwatch annotations",
        "Events that reports tell beside the runs they fell between.",
        keys::ANNOTATION,
    )
}

/// A file of nothing but `[[name]]`; keys without a default are required.
fn list_of(name: &str, title: &str, description: &str, keys: &[Key]) -> Value {
    let mut item = object(keys);
    item["required"] = keys.iter().filter(|key| key.default == "none").map(|key| key.name).collect::<Vec<_>>().into();
    let mut properties = Map::new();
    properties.insert(name.into(), json!({"type": "array", "items": item}));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "description": description,
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

fn object(keys: &[Key]) -> Value {
    let properties: Map<String, Value> = keys.iter().map(|key| (key.name.to_owned(), one(key))).collect();
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

fn named(keys: &[Key]) -> Value {
    json!({"type": "object", "propertyNames": {"pattern": NAME}, "additionalProperties": object(keys)})
}

const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";

fn scalar() -> Value {
    json!({"type": ["string", "number", "boolean"]})
}

/// One key: what it holds, its default in words or as a value, its meaning and an example.
fn one(key: &Key) -> Value {
    let mut value = holds(key.holds);
    value["description"] = format!("{} Default: {}.", key.doc, key.default).into();
    let as_toml = |text: &str| -> Option<Value> {
        let mut table: Map<String, Value> = toml::from_str(&format!("value = {text}")).ok()?;
        table.remove("value")
    };
    if let Some(default) = as_toml(key.default) {
        value["default"] = default;
    }
    if let Some(example) = as_toml(key.example) {
        value["examples"] = json!([example]);
    }
    value
}

fn holds(holds: Holds) -> Value {
    match holds {
        Holds::Text => json!({"type": "string"}),
        Holds::Name => json!({"type": "string", "pattern": NAME}),
        Holds::Words(words) => json!({"enum": words}),
        Holds::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Holds::SomeOf(words) => {
            json!({"oneOf": [{"enum": words}, {"type": "array", "items": {"enum": words}}]})
        }
        Holds::Bool => json!({"type": "boolean"}),
        Holds::Integer(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Holds::Number(least, most) => json!({"type": "number", "minimum": least, "maximum": most}),
        Holds::Duration => json!({"type": "string", "pattern": "^ *[0-9]+(\\.[0-9]+)? *(ms|s|min|h) *$"}),
        Holds::Day => json!({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}),
        Holds::Count => json!({"oneOf": [{"type": "string"}, {"type": "integer", "minimum": 1}]}),
        Holds::Warmup => json!({"oneOf": [{"const": "steady"}, {"type": "integer", "minimum": 0}]}),
        Holds::Table(keys) => object(keys),
        Holds::Rounds(keys) => json!({"oneOf": [{"type": "integer", "minimum": 1}, object(keys)]}),
        Holds::Axes => json!({
            "type": "object",
            "propertyNames": {"pattern": NAME},
            "additionalProperties": {"oneOf": [{"type": "array", "minItems": 1, "items": scalar()}, object(keys::AXIS)]},
        }),
        Holds::Named(keys) => named(keys),
        Holds::Selection => json!({"oneOf": [scalar(), {"type": "array", "minItems": 1, "items": scalar()}]}),
        Holds::Side => json!({"type": "object", "minProperties": 1, "additionalProperties": scalar()}),
    }
}

/// The parameters of the built-in step. As axes each may be a list; a workload's own axes are known to its declaration only.
fn axes(lists: bool) -> Value {
    let mut properties = Map::new();
    if lists {
        let workload = json!({"type": "string"});
        let mut value = json!({"oneOf": [workload, {"type": "array", "minItems": 1, "items": workload}]});
        value["description"] = "What runs: builtin, or the name of one of [workloads]. Default: builtin.".into();
        value["default"] = "builtin".into();
        properties.insert("workload".into(), value);
    }
    for parameter in PARAMETERS.iter().filter(|parameter| lists || parameter.in_step) {
        let value = accepts(parameter);
        let mut value =
            if lists { json!({"oneOf": [value, {"type": "array", "minItems": 1, "items": value}]}) } else { value };
        let default = parameter.default.scalar();
        value["description"] = format!("{} Default: {default}.", parameter.doc).into();
        value["default"] = match default {
            Scalar::Bool(value) => value.into(),
            Scalar::Integer(value) => value.into(),
            Scalar::Float(value) => value.into(),
            Scalar::Text(value) => value.into(),
        };
        properties.insert(parameter.name.to_owned(), value);
    }
    let others = if lists { holds(Holds::Selection) } else { Value::Bool(false) };
    json!({"type": "object", "additionalProperties": others, "properties": properties})
}

fn accepts(parameter: &Parameter) -> Value {
    match parameter.accepts {
        Accepts::Model => json!({"type": "string", "examples": PRESETS.map(|(name, _)| name)}),
        Accepts::Compile => json!({
            "oneOf": [
                {"type": "boolean"},
                {"type": "string", "pattern": "^(none|full|false|true|(layout|fusion|place|search|graph)(\\+(layout|fusion|place|search|graph))*)$"},
            ],
            "examples": ["none", "layout+fusion", "full"],
        }),
        Accepts::Data => json!({"oneOf": [
            {"type": "string", "pattern": "^(zipf|file:.+)$"},
            {"type": "object", "additionalProperties": false, "required": ["file"], "properties": {"file": {"type": "string"}}},
        ]}),
        Accepts::Words(words) => json!({"enum": words()}),
        Accepts::Integer(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Accepts::Number(least, most) => json!({"type": "number", "minimum": least, "maximum": most}),
        Accepts::Bool => json!({"type": "boolean"}),
    }
}
