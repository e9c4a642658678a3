//! The rows of `samples.csv`: one sample a row, written so that reading gives the same numbers back.
//!
//! No field needs quoting: a cell's id holds no comma, quote or line end, and all else is numbers. An unknown number is
//! an empty field.

use std::fmt::Write;

use stepwatch_record::CellId;
use stepwatch_record::run::Sample;

/// The first line of the file.
pub(super) const HEADER: &str =
    "cell,round,step,stage,t_ns,gpu_ns,cycles,sm_clock_hz,power_w,temperature_c,throttle,loss,attempt\n";

/// The rows of one round.
pub(super) fn rows(cell: &CellId, round: u32, attempt: u32, samples: &[Sample]) -> String {
    let mut text = String::with_capacity(samples.len() * 96);
    for sample in samples {
        let stage = if sample.measured { "measure" } else { "warmup" };
        // Writing to a string cannot fail.
        let _ =
            write!(text, "{cell},{round},{},{stage},{},{},{},", sample.step, sample.t_ns, sample.gpu_ns, sample.cycles);
        for number in [sample.sm_clock_hz, sample.power_w, sample.temperature_c] {
            text.push_str(&known(number));
            text.push(',');
        }
        let _ = writeln!(text, "{},{},{attempt}", sample.throttle, known(sample.loss));
    }
    text
}

/// Reads the rows of one round back.
///
/// # Errors
/// Which row is not one of this round's samples.
pub(super) fn read(text: &str, cell: &CellId, round: u32) -> Result<Vec<Sample>, String> {
    text.lines()
        .enumerate()
        .map(|(number, line)| {
            sample(line, cell, round)
                .ok_or_else(|| format!("row {} of {cell}, round {round} is no sample of it", number + 1))
        })
        .collect()
}

fn sample(line: &str, cell: &CellId, round: u32) -> Option<Sample> {
    let fields: Vec<&str> = line.split(',').collect();
    let [of, in_round, step, stage, t_ns, gpu_ns, cycles, clock, power, temperature, throttle, loss, ..] =
        fields.as_slice()
    else {
        return None;
    };
    if *of != cell.0 || in_round.parse() != Ok(round) {
        return None;
    }
    Some(Sample {
        step: step.parse().ok()?,
        measured: match *stage {
            "measure" => true,
            "warmup" => false,
            _ => return None,
        },
        t_ns: t_ns.parse().ok()?,
        gpu_ns: gpu_ns.parse().ok()?,
        cycles: cycles.parse().ok()?,
        sm_clock_hz: number(clock)?,
        power_w: number(power)?,
        temperature_c: number(temperature)?,
        throttle: throttle.parse().ok()?,
        loss: number(loss)?,
    })
}

fn known(number: f64) -> String {
    if number.is_nan() { String::new() } else { number.to_string() }
}

fn number(field: &str) -> Option<f64> {
    if field.is_empty() { Some(f64::NAN) } else { field.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_back_as_written() {
        let cell = CellId("tiny/bf16~0badcafe".to_owned());
        let sample = Sample {
            step: 3,
            measured: true,
            t_ns: u64::MAX,
            gpu_ns: 1,
            cycles: 7,
            loss: 0.1 + 0.2,
            sm_clock_hz: 1.98e9,
            power_w: 699.5,
            temperature_c: 60.0,
            throttle: 4,
        };
        let text = rows(&cell, 2, 1, &[sample, Sample { measured: false, ..sample }]);
        let back = read(&text, &cell, 2).unwrap();
        assert_eq!(back, [sample, Sample { measured: false, ..sample }]);
        assert_eq!(HEADER.split(',').count(), text.lines().next().unwrap().split(',').count());

        let unknown = Sample { loss: f64::NAN, power_w: f64::NAN, ..sample };
        let back = read(&rows(&cell, 2, 0, &[unknown]), &cell, 2).unwrap();
        assert!(back[0].loss.is_nan() && back[0].power_w.is_nan());
    }

    #[test]
    fn a_row_of_another_round_is_refused() {
        let cell = CellId("a~1".to_owned());
        let error = read("a~1,3,0,measure,1,1,0,,,,0,,0\n", &cell, 2).unwrap_err();
        assert_eq!(error, "row 1 of a~1, round 2 is no sample of it");
        assert!(read("torn,2", &cell, 2).is_err());
    }
}
