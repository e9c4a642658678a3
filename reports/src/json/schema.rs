//! The JSON Schema of the report as JSON, grown from one shape that names every key with what it holds.

use serde_json::{Map, Value, json};

/// What each key holds: `text`, `number`, `whole` or `yes-no`, with `?` where it may be `null`; a list of one shape; an object;
/// `*` stands for keys that are not fixed. A key that ends in `?` may be absent.
fn shape() -> Value {
    let run = json!({"verdict": "text", "cells": "whole"});
    let step = json!({"class": "text", "from_seconds": "number", "to_seconds": "number"});
    json!({
        "schema": "text", "run": "text", "scenario": "text", "title": "text", "started": "text", "backend": "text",
        "device": "text", "size": "text", "emulated": "text?",
        "outcome": {"headline": "text", "tone": "text", "exit_code": "whole", "exit": "text"},
        "counts": [run],
        "reference": {"sentence": "text", "runs": ["text"], "differences": ["text"], "accept": "text"},
        "next_steps": [{"text": "text", "command": "text"}],
        "metrics": [{"name": "text", "unit": "text", "better": "text", "gated": "yes-no"}],
        "cells": [cell()],
        "changes": [change()],
        "claims": [claim()],
        "findings": [{
            "kind": "text", "severity": "text", "sentence": "text", "evidence": ["text"], "next_step": "text", "command": "text", "cells": ["text"]
        }],
        "waivers": [{
            "cell": "text", "cells": ["text"], "metric": "text", "limit": "number", "owner": "text", "expires": "text",
            "reason": "text", "state": "text", "sentence": "text"
        }],
        "annotations": [{"date": "text", "text": "text", "cells": ["text"]}],
        "waterfalls": [{"from": "text", "to": "text", "steps": [step]}],
        "gains": [{
            "of": "text", "over": "text", "width": "whole?", "ratio": "number", "low": "number", "high": "number",
            "confidence": "number", "product_share": "number?", "bound": "number?"
        }],
        "ceilings": [{"name": "text", "rate": "number", "unit": "text"}],
        "history": {"?": history()},
        "latest_changes?": [{
            "cell": "text", "metric": "text", "shape": "text", "word": "text", "effect": "number", "run": "text",
            "started": "text", "between": ["text"], "runs": "whole", "shared": "yes-no"
        }],
        "provenance": {
            "machines": [{
                "facts": [{"name": "text", "value": "text"}],
                "libraries": [{"name": "text", "version": "text", "path": "text"}]
            }],
            "build": {"*": "text"}, "settings": {"*": "text"}, "notes": ["text"], "damage": ["text"], "method": ["text"],
            "command": "text"
        },
    })
}

fn cell() -> Value {
    json!({
        "id": "text", "name": "text", "end": "text", "reason": "text", "verdict": "text", "blind": "yes-no", "parameters": {"*": "text"},
        "figures": [{
            "metric": "text", "point": "number?", "low": "number?", "high": "number?", "confidence": "number",
            "rounds": ["number?"], "samples": "whole"
        }],
        "plan_hash": "text?", "passes": ["text"], "passes_skipped": {"*": "text"}, "numbers_ok": "yes-no?",
        "ops": [{"class": "text", "count": "whole", "seconds": "number", "flops": "number", "bytes": "number", "least_seconds?": "number"}],
        "bound?": {"*": "text"},
        "command": "text",
    })
}

fn change() -> Value {
    json!({
        "cell": "text", "metric": "text", "gated": "yes-no", "verdict": "text", "reason": "text", "why": "text",
        "effect": "number?", "low": "number?", "high": "number?", "confidence": "number?", "detectable": "number?",
        "blind": "yes-no", "rounds_to_decide": "whole?", "value": "number?", "reference_value": "number?",
    })
}

fn claim() -> Value {
    json!({
        "text": "text", "metric": "text", "asserts": "text", "gate": "yes-no", "verdict": "text",
        "pairs": [{
            "of": "text", "over": "text", "verdict": "text", "ratio": "number?", "low": "number?", "high": "number?", "why": "text"
        }],
    })
}

fn history() -> Value {
    json!({
        "sentence": "text", "nights": [["text"]],
        "shifts": [{"metric": "text", "run": "text", "effect": "number", "cells": ["text"], "differs": ["text"]}],
        "notes": [{"date": "text", "text": "text"}],
        "trends": [{
            "cell": "text", "metric": "text", "newest": "text", "values": [{"?": ["number"]}],
            "changes": [{
                "run": "text", "between": ["text"], "shape": "text", "word": "text", "effect": "number", "shared": "yes-no",
                "differs": ["text"]
            }],
            "outliers": ["text"], "waivers": ["text"]
        }],
    })
}

/// The JSON Schema (draft 2020-12) of what [`super::render`] writes. Keys may be added within a version, never taken away.
#[must_use]
pub fn schema() -> Value {
    let mut schema = grown(&shape());
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "A report of Stepwatch".into();
    schema["properties"]["schema"] = json!({"const": super::VERSION});
    schema
}

fn grown(shape: &Value) -> Value {
    match shape {
        Value::String(word) => scalar(word),
        Value::Array(items) => json!({"type": "array", "items": items.first().map_or(Value::Bool(true), grown)}),
        Value::Object(keys) => match (keys.get("*"), keys.get("?")) {
            (Some(values), _) => json!({"type": "object", "additionalProperties": grown(values)}),
            (_, Some(present)) => json!({"anyOf": [grown(present), {"type": "null"}]}),
            _ => {
                let name = |key: &String| key.trim_end_matches('?').to_owned();
                let properties: Map<String, Value> =
                    keys.iter().map(|(key, value)| (name(key), grown(value))).collect();
                let required: Vec<&String> = keys.keys().filter(|key| !key.ends_with('?')).collect();
                json!({"type": "object", "properties": properties, "required": required})
            }
        },
        _ => Value::Bool(true),
    }
}

fn scalar(word: &str) -> Value {
    let name = match word.trim_end_matches('?') {
        "number" => "number",
        "whole" => "integer",
        "yes-no" => "boolean",
        _ => "string",
    };
    if word.ends_with('?') { json!({"type": [name, "null"]}) } else { json!({"type": name}) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{View, example};

    /// What does not fit, by path; a key that the schema does not know is told too.
    fn misfits(value: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
        if let Some(either) = schema.get("anyOf").and_then(Value::as_array) {
            return if value.is_null() {
            } else {
                misfits(value, &either[0], path, found)
            };
        }
        if let Some(only) = schema.get("const") {
            if value != only {
                found.push(format!("{path}: {value} is not {only}"));
            }
            return;
        }
        let kinds = match &schema["type"] {
            Value::Array(kinds) => kinds.clone(),
            kind => vec![kind.clone()],
        };
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if !number.is_f64() => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        if !kinds.iter().any(|k| k == kind || (kind == "integer" && k == "number")) {
            found.push(format!("{path}: {kind} is none of {kinds:?}"));
        }
        match value {
            Value::Array(items) => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(i, item)| misfits(item, &schema["items"], &format!("{path}/{i}"), found));
            }
            Value::Object(map) => {
                for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if !map.contains_key(required) {
                        found.push(format!("{path}: {required} is missing"));
                    }
                }
                for (key, item) in map {
                    match schema["properties"].get(key).or_else(|| schema.get("additionalProperties")) {
                        Some(of_key) => misfits(item, of_key, &format!("{path}/{key}"), found),
                        None => found.push(format!("{path}: the schema does not know {key}")),
                    }
                }
            }
            _ => {}
        }
    }

    #[test]
    fn every_example_fits_and_no_key_is_unknown() {
        let schema = schema();
        for inputs in [example::study(), example::first_on_cpu(), example::hostile()] {
            let (run, summary, conclusion) = &inputs;
            let mut conclusion = conclusion.clone();
            conclusion.latest_changes = Some(example::latest_changes(&inputs));
            let (view, conclusion) = (View::new(run, summary, &conclusion), &conclusion);
            let with_nights = view.clone().with_history(&example::nights(&inputs, 40), run, conclusion);
            for view in [view, with_nights] {
                let mut found = Vec::new();
                misfits(&super::super::value(&view), &schema, "", &mut found);
                assert_eq!(found, Vec::<String>::new());
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_found() {
        let (run, summary, conclusion) = example::study();
        let good = super::super::value(&View::new(&run, &summary, &conclusion));
        let wrong = |change: fn(&mut Value)| {
            let (mut value, mut found) = (good.clone(), Vec::new());
            change(&mut value);
            misfits(&value, &schema(), "", &mut found);
            found.len()
        };
        assert_eq!(wrong(|_| {}), 0);
        assert_eq!(wrong(|value| value["cells"][0]["blind"] = "no".into()), 1);
        assert_eq!(wrong(|value| value["schema"] = "other".into()), 1);
        assert_eq!(wrong(|value| drop(value.as_object_mut().unwrap().remove("claims"))), 1);
        assert_eq!(wrong(|value| value["cells"][0]["new"] = 1.into()), 1);
    }
}
