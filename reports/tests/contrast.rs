//! Contrast of the page's colours by WCAG 2.2, light and dark, read from its own style sheet: text at least 4.5 to 1 on every
//! ground that it stands on, what is drawn at least 3 to 1.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where it cannot go on")]

const STYLE: &str = include_str!("../templates/style.css");

type Rgb = [f64; 3];

/// The two colours of a variable: light and dark.
fn variable(name: &str) -> [Rgb; 2] {
    let rest = STYLE.split(&format!("--{name}:light-dark(")).nth(1).unwrap_or_else(|| panic!("--{name} is not there"));
    let (light, dark) = rest.split(')').next().unwrap().split_once(',').unwrap();
    [light, dark].map(|text| {
        let hex = text.trim().trim_start_matches('#');
        let digit = |i: usize| f64::from(u8::from_str_radix(&hex[i..=i], 16).unwrap());
        let two = |i: usize| 16.0 * digit(i) + digit(i + 1);
        if hex.len() < 6 { [0, 1, 2].map(|i| 17.0 * digit(i)) } else { [0, 2, 4].map(two) }
    })
}

fn luminance(colour: Rgb) -> f64 {
    let [r, g, b] = colour.map(|channel| {
        let c = channel / 255.0;
        if c <= 0.040_45 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    });
    0.2126 * r + 0.7152 * g + 0.0722 * b
}

fn contrast(a: Rgb, b: Rgb) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

fn mix(over: Rgb, ground: Rgb, share: f64) -> Rgb {
    [0, 1, 2].map(|i| over[i] * share + ground[i] * (1.0 - share))
}

fn assert_contrast(what: &str, one: [Rgb; 2], other: [Rgb; 2], least: f64) {
    for (scheme, (one, other)) in ["light", "dark"].into_iter().zip(one.into_iter().zip(other)) {
        let found = contrast(one, other);
        assert!(found >= least, "{what}, {scheme}: {found:.2} to 1, and {least} is needed");
    }
}

#[test]
fn text_can_be_read_on_every_ground_that_it_stands_on() {
    for text in ["ink", "soft", "acc", "bad", "warn", "good"] {
        for ground in ["bg", "sf"] {
            assert_contrast(&format!("{text} on {ground}"), variable(text), variable(ground), 4.5);
        }
    }
    // A place of the matrix, at its deepest shade.
    for (tone, ground) in [("bad", "bade"), ("warn", "warne"), ("good", "goode")] {
        let shade = if tone == "warn" { 0.0 } else { 0.12 };
        let (over, under) = (variable(tone), variable(ground));
        let deepest = [mix(over[0], under[0], shade), mix(over[1], under[1], shade)];
        assert!(STYLE.contains("calc(var(--d,40)*.12%)") && STYLE.contains("calc(var(--d,0)*.12%)"));
        assert_contrast(&format!("{tone} on its shade"), over, deepest, 4.5);
        assert_contrast(&format!("ink on the shade of {tone}"), variable("ink"), deepest, 4.5);
    }
    // Names within the ladder's segments.
    for index in 0..10 {
        assert_contrast(&format!("a name on colour {index}"), variable("sf"), variable(&format!("c{index}")), 4.5);
    }
}

#[test]
fn what_is_drawn_stands_out_from_its_ground() {
    for line in
        ["acc", "soft", "warn", "bad", "good", "ink", "c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9"]
    {
        for ground in ["bg", "sf"] {
            assert_contrast(&format!("{line} on {ground}"), variable(line), variable(ground), 3.0);
        }
    }
}
