//! Every key of a scenario file but those of the built-in step (`builtin` holds them): name, what it holds, default, meaning.
//!
//! The reader takes its "unknown key" and "expected" from this table, and `schema` prints it, so that what an editor
//! completes is what is read.

/// What a key holds, as an editor needs to know it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Holds {
    /// Free text.
    Text,
    /// A name that is safe in paths: letters, digits, `-`, `_`, `.`.
    Name,
    /// One of these words.
    Words(&'static [&'static str]),
    /// A list of texts.
    Texts,
    /// A list of these words, or one of them.
    SomeOf(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// A whole number in this range.
    Integer(i64, i64),
    /// A number in this range.
    Number(f64, f64),
    /// A number with its unit of time.
    Duration,
    /// A day, as text or as TOML's own date.
    Day,
    /// A count such as `"350M"` or a whole number.
    Count,
    /// `steady` or a whole number.
    Warmup,
    /// A table with these keys.
    Table(&'static [Key]),
    /// As `Table`, or a whole number for both `min` and `max`.
    Rounds(&'static [Key]),
    /// Parameters with the values that are accepted.
    Axes,
    /// Tables with these keys under names of the user's.
    Named(&'static [Key]),
    /// One value, or several, for each of some parameters.
    Selection,
    /// One value for each of some parameters.
    Side,
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) holds: Holds,
    /// As TOML, or in words where it follows from something else.
    pub(super) default: &'static str,
    /// A right value, as TOML.
    pub(super) example: &'static str,
    pub(super) doc: &'static str,
}

const fn key(name: &'static str, holds: Holds, default: &'static str, example: &'static str, doc: &'static str) -> Key {
    Key { name, holds, default, example, doc }
}

/// `[scenario]`.
pub(super) const SCENARIO: &[Key] = &[
    key(
        "name",
        Holds::Name,
        "the file's name without .toml",
        "\"fp8-study\"",
        "Names the run folder and the baseline: letters, digits, -, _ and . only.",
    ),
    key("title", Holds::Text, "the name", "\"Is FP8 faster here?\"", "The question, in words; free text."),
    key(
        "backend",
        Holds::Words(&["auto", "cuda", "cpu"]),
        "\"auto\"",
        "\"cuda\"",
        "What runs the built-in step: cuda, cpu, or auto (CUDA where a usable GPU is found).",
    ),
    key(
        "max_cells",
        Holds::Integer(1, 1_000_000),
        "10000",
        "20000",
        "More cells than this are an error: a matrix grows faster than one thinks.",
    ),
];

/// `[measure]`.
pub(super) const MEASURE: &[Key] = &[
    key(
        "rounds",
        Holds::Rounds(&[
            key("min", Holds::Integer(1, 1000), "5", "5", "Rounds of every cell."),
            key(
                "max",
                Holds::Integer(1, 1000),
                "15, or min if that is more",
                "15",
                "Rounds at the most, where a budget allows more.",
            ),
        ]),
        "{ min = 5, max = 15 }",
        "{ min = 5, max = 15 }",
        "Worker processes per cell, interleaved over cells in seeded random order. The round is the unit of judgement.",
    ),
    key(
        "warmup",
        Holds::Warmup,
        "\"steady\"",
        "\"steady\"",
        "When warm-up ends: steady (when step times are), or after a number of steps.",
    ),
    key(
        "max_warmup_steps",
        Holds::Integer(1, 1_000_000),
        "100",
        "100",
        "Where warm-up that does not become steady is given up; the round is then marked not steady.",
    ),
    key("samples", Holds::Integer(1, 100_000), "30", "30", "Steps that count, of each round."),
    key("timeout", Holds::Duration, "\"5min\"", "\"5min\"", "The longest one worker may take: such as 30s, 5min, 2h."),
];

/// What may have to be the same in a reference.
pub(super) const SAME: &[&str] = &["gpu", "driver", "power_limit", "libraries", "device", "cpu"];

/// `[policy]`.
pub(super) const POLICY: &[Key] = &[
    key(
        "gate",
        Holds::Texts,
        "[\"tokens_per_second\", \"peak_memory_bytes\"]",
        "[\"tokens_per_second\"]",
        "Metrics that can fail a night; others inform.",
    ),
    key("margin", Holds::Number(0.0, 1.0), "0.01", "0.01", "A smaller slowdown does not matter (0.01 is 1 %)."),
    key("equal_within", Holds::Number(0.0, 1.0), "0.02", "0.02", "\"Unchanged\" is shown to this width."),
    key(
        "detect",
        Holds::Number(0.0, 1.0),
        "0.02",
        "0.02",
        "A gated cell that could not have seen this slowdown is blind.",
    ),
    key("false_alarms", Holds::Number(0.0, 1.0), "0.01", "0.01", "Chance of any false red in one whole run."),
    key(
        "reference",
        Holds::Table(&[
            key("runs", Holds::Integer(1, 1000), "10", "10", "Accepted runs compared with, at the most."),
            key(
                "same",
                Holds::SomeOf(SAME),
                "[\"gpu\", \"driver\", \"power_limit\"]",
                "[\"gpu\", \"driver\"]",
                "What must be the same to compare; device pins the very card.",
            ),
            key(
                "promote",
                Holds::Integer(0, 1000),
                "0",
                "3",
                "So many nights that ended good and agree make the newest of them a reference by itself; 0: only `baseline accept` does.",
            ),
        ]),
        "{ runs = 10, same = [\"gpu\", \"driver\", \"power_limit\"] }",
        "{ runs = 10, same = \"device\" }",
        "The accepted runs that a run is compared with.",
    ),
];

/// `[[claim]]`.
pub(super) const CLAIM: &[Key] = &[
    key("text", Holds::Text, "made from the sides", "\"FP8 is 1.7 times BF16\"", "The claim in words; free text."),
    key("metric", Holds::Text, "\"tokens_per_second\"", "\"tokens_per_second\"", "The metric it speaks of."),
    key(
        "of",
        Holds::Side,
        "none",
        "{ precision = \"fp8-tensorwise\" }",
        "The first side: one value per parameter named.",
    ),
    key("over", Holds::Side, "none", "{ precision = \"bf16\" }", "The second side: the same parameters, other values."),
    key("at_least", Holds::Number(0.0, 1e9), "none", "1.7", "Asserts that first over second is at least this."),
    key("at_most", Holds::Number(0.0, 1e9), "none", "1.0", "Asserts that first over second is at most this."),
    key("gate", Holds::Bool, "false", "true", "Whether refuting it fails the run (exit 5)."),
];

/// The largest dimension a model may have.
const DIM: Holds = Holds::Integer(1, 1 << 24);

/// `[models.NAME]`.
pub(super) const MODEL: &[Key] = &[
    key("dim", DIM, "none", "896", "Width of the residual stream."),
    key("layers", DIM, "none", "24", "Blocks."),
    key("heads", DIM, "none", "14", "Attention heads; they divide dim, and dim / heads is even."),
    key("ffn", DIM, "4 × dim", "3584", "Width of the SwiGLU hidden layer (gate and up each)."),
    key("vocab", DIM, "50257", "50257", "Distinct tokens; padded to a multiple of 64 for the GEMMs."),
    key(
        "params",
        Holds::Count,
        "none",
        "\"350M\"",
        "What its author believes its size to be: checked, 2 % off is a finding.",
    ),
];

/// A metric of a workload.
pub(super) const METRIC: &[Key] = &[
    key(
        "regex",
        Holds::Text,
        "none",
        "'tokens/sec: ([\\d,.]+)'",
        "Finds it in the output: the first group is the number, every match is a sample. Not with protocol = true.",
    ),
    key("unit", Holds::Text, "\"\"", "\"1/s\"", "Its unit, such as 1/s, s, bytes; empty for a plain number."),
    key("better", Holds::Words(&["higher", "lower"]), "none", "\"higher\"", "Its good direction."),
];

/// `[workloads.NAME]`.
pub(super) const WORKLOAD: &[Key] = &[
    key(
        "command",
        Holds::Texts,
        "none",
        "[\"python3\", \"train.py\", \"--precision={precision}\"]",
        "Program and arguments, run in the scenario's folder; {parameter} is filled in, {{ and }} are braces. No shell.",
    ),
    key(
        "axes",
        Holds::Axes,
        "{}",
        "{ precision = [\"bf16\", \"fp8\"], threads = { values = [1, 2], default = 1 } }",
        "The parameters it takes, its own too, with the values it accepts. A default keeps ids when the axis is added.",
    ),
    key(
        "metrics",
        Holds::Named(METRIC),
        "{}",
        "{ tokens_per_second = { regex = 'tokens/sec: ([\\d,.]+)', unit = \"1/s\", better = \"higher\" } }",
        "The figures read from it, by name.",
    ),
    key(
        "protocol",
        Holds::Bool,
        "false",
        "true",
        "Whether it speaks the JSON-lines worker protocol instead of being read by regex.",
    ),
    key(
        "persistent",
        Holds::Bool,
        "false",
        "true",
        "Whether one process runs all rounds of a cell, waiting in between: for programs that compile for long. What it keeps of \
         the GPU must fit beside the other cells. Needs protocol = true.",
    ),
];

/// The values of one axis of a workload, where a default is given.
pub(super) const AXIS: &[Key] = &[
    key("values", Holds::Selection, "none", "[1, 2]", "The values it accepts."),
    key(
        "default",
        Holds::Selection,
        "none",
        "1",
        "Its value where a matrix says nothing; left out of ids, so it never changes.",
    ),
];

/// `[[waiver]]` of `waivers.toml`.
pub(super) const WAIVER: &[Key] = &[
    key("cell", Holds::Text, "none", "\"454m/fp8-*\"", "The cells: a name as in reports, an id, or a pattern with *."),
    key("metric", Holds::Text, "none", "\"tokens_per_second\"", "The metric whose regression is known."),
    key(
        "limit",
        Holds::Number(0.0, 1.0),
        "none",
        "0.03",
        "The largest worsening that is waived, as a share between 0 and 1; beyond it the cell is regressed.",
    ),
    key("owner", Holds::Text, "none", "\"kim\"", "Who answers for it."),
    key("expires", Holds::Day, "none", "\"2026-12-31\"", "The last day, UTC, of runs that it holds for."),
    key("reason", Holds::Text, "none", "\"cuBLAS 13.0.2 picks a slower kernel\"", "Why; it stands in every report."),
    key("scenario", Holds::Name, "every scenario", "\"fp8-study\"", "The only scenario that it speaks of."),
];

/// `[[annotation]]` of `annotations.toml`.
pub(super) const ANNOTATION: &[Key] = &[
    key("date", Holds::Day, "none", "\"2026-11-20\"", "The day on which it happened, UTC."),
    key("text", Holds::Text, "none", "\"driver 580.95\"", "What happened; it changes no verdict."),
    key(
        "cell",
        Holds::Text,
        "every cell",
        "\"454m/*\"",
        "The cells it speaks of: a name as in reports, an id, or a pattern with *.",
    ),
    key("scenario", Holds::Name, "every scenario", "\"fp8-study\"", "The only scenario that it speaks of."),
];

/// The tables of a scenario file, with what each is for.
pub(super) const TABLES: &[(&str, &str)] = &[
    ("scenario", "Name, title and backend."),
    ("matrix", "[[matrix]]: axes with their values; the cells are the product, and the union over all [[matrix]]."),
    ("exclude", "[[exclude]]: cells of the product that are left out, by axis values."),
    ("step", "[step]: settings of all cells, unless a matrix says otherwise; any key here may be an axis."),
    ("models", "[models.NAME]: models beside the presets."),
    ("workloads", "[workloads.NAME]: commands beside the built-in step."),
    ("measure", "[measure]: rounds, warm-up, samples."),
    ("claim", "[[claim]]: confirmed, refuted or undecided for every pair of cells equal in all else."),
    ("policy", "[policy]: when a change matters."),
];
