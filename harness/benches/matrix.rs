//! A matrix of 10,000 cells, read, checked, resolved with a claim and listed: wanted in 200 ms.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use stepwatch::commands::list;
use stepwatch::scenario::{self, LoadOptions};

fn text() -> String {
    let batches: Vec<String> = (1..=125).map(|n| (n * 16).to_string()).collect();
    format!(
        "[[matrix]]\nmodel = [\"tiny\", \"mini\"]\nprecision = [\"bf16\", \"fp32\", \"fp8-tensorwise\", \"fp8-rowwise\"]\n\
         attention = [\"naive\", \"flash\"]\ncompile = [\"none\", \"full\", \"layout\", \"layout+fusion\", \"fusion\"]\n\
         batch_size = [{}]\n[step]\nseq_len = 64\n[[claim]]\nof = {{ compile = \"full\" }}\nover = {{ compile = \"none\" }}\n\
         at_least = 1.0\n",
        batches.join(", ")
    )
}

fn bench(criterion: &mut Criterion) {
    let text = text();
    criterion.bench_function("matrix of 10000 cells, checked and listed", |bencher| {
        bencher.iter(|| {
            let scenario = scenario::parse(Path::new("bench.toml"), black_box(&text), &LoadOptions::default()).ok();
            let listed = scenario.as_ref().map(|scenario| (scenario.cells.len(), list::text(scenario, None)));
            assert_eq!(listed.as_ref().map(|(cells, _)| *cells), Some(10_000));
            listed
        });
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
