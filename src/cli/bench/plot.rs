//! Latency over throughput, as a drawing (SVG 1.1).

use std::fmt::Write as _;

use super::measure::Timed;
use super::report::BenchReport;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 120.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;

/// The lines of the plot.
const LINES: [(&str, f64, &str); 3] = [("p50", 50.0, "#2b6cb0"), ("p99", 99.0, "#c05621"), ("p99.9", 99.9, "#9b2c2c")];

/// From values to places; latency is logarithmic.
struct Scale {
    rate_max: f64,
    low: f64,
    high: f64,
}

impl Scale {
    fn x(&self, rate: f64) -> f64 {
        LEFT + rate / self.rate_max * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, ms: f64) -> f64 {
        let part = (ms.max(self.low).log10() - self.low.log10()) / (self.high.log10() - self.low.log10());
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    }
}

/// A point for each step, in their order: appends a second, and milliseconds.
fn points(report: &BenchReport, percentile: f64) -> Vec<(f64, f64)> {
    let measured = report.steps.iter().filter(|step| !step.measured.latencies(Timed::Append).is_empty());
    measured
        .map(|step| {
            let micros = step.measured.latencies(Timed::Append).value_at_percentile(percentile);
            (step.per_second(Timed::Append), micros as f64 / 1000.0)
        })
        .collect()
}

pub(super) fn svg(report: &BenchReport) -> String {
    let all: Vec<_> = LINES.iter().flat_map(|(_, percentile, _)| points(report, *percentile)).collect();
    let decade = |ms: f64| 10f64.powf(ms.log10().floor());
    let least = all.iter().map(|point| point.1).fold(f64::INFINITY, f64::min).clamp(0.001, 1e6);
    let most = all.iter().map(|point| point.1).fold(0.001, f64::max);
    let rate_max = all.iter().map(|point| point.0).fold(1.0, f64::max) * 1.05;
    let scale = Scale { rate_max, low: decade(least), high: decade(most) * 10.0 };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">Latency of appends of {} bytes over throughput</text>\n",
        report.payload
    );
    grid(&mut out, &scale);
    for (number, (name, percentile, color)) in LINES.into_iter().enumerate() {
        line(&mut out, &scale, &points(report, percentile), color);
        let y = TOP + 20.0 * number as f64;
        let x = WIDTH - RIGHT + 20.0;
        let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" fill=\"{color}\">{name}</text>");
    }
    out.push_str("</svg>\n");
    out
}

fn grid(out: &mut String, scale: &Scale) {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let mut ms = scale.low;
    while ms <= scale.high * 1.001 {
        let y = scale.y(ms);
        let _ = writeln!(out, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>");
        let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{ms} ms</text>", LEFT - 8.0, y + 4.0);
        ms *= 10.0;
    }
    for part in 0..=4 {
        let rate = scale.rate_max * f64::from(part) / 4.0;
        let x = scale.x(rate);
        let _ = writeln!(out, "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#eee\"/>");
        let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{rate:.0}</text>", bottom + 20.0);
    }
    let (middle, below) = (f64::midpoint(LEFT, right), HEIGHT - 16.0);
    let _ = writeln!(out, "<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">appends per second</text>");
}

fn line(out: &mut String, scale: &Scale, points: &[(f64, f64)], color: &str) {
    let places: Vec<_> = points.iter().map(|(rate, ms)| (scale.x(*rate), scale.y(*ms))).collect();
    let path: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\"/>", path.join(" "));
    for (x, y) in places {
        let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>");
    }
}
