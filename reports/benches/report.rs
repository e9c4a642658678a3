//! How long the page of a large sweep takes: 300 cells, 5 rounds, 30 samples each. The budget is one second.

use criterion::{Criterion, criterion_group, criterion_main};
use stepwatch_reports::{View, example, html};

fn report(criterion: &mut Criterion) {
    let (run, summary, conclusion) = example::sized(300, 5, 30);
    criterion.bench_function("html of 300 cells", |bencher| {
        bencher.iter(|| html::render(&View::new(&run, &summary, &conclusion)));
    });
}

criterion_group!(benches, report);
criterion_main!(benches);
