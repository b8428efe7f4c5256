//! The two sides of the trade in one picture.

use super::virtual_time::{Cell, Network};
use super::{Setting, quantile};
use crate::bench::measure::median;
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use std::path::Path;

const SIZE: (u32, u32) = (960, 420);
const COLOURS: [RGBColor; 5] = [
    RGBColor(0xd7, 0x30, 0x27),
    RGBColor(0xf4, 0x8f, 0x3a),
    RGBColor(0x1a, 0x98, 0x50),
    RGBColor(0x45, 0x75, 0xb4),
    RGBColor(0x76, 0x2a, 0x83),
];

/// Draws the detection time against the setting, and the share of false suspicions against the length of a pause.
pub(super) fn draw(settings: &[Setting], path: &Path) -> Result<()> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    let (left, right) = area.split_horizontally(SIZE.0 / 2);
    detection(settings, &left)?;
    suspicions(settings, &right)?;
    area.present().map_err(failed)?;
    Ok(())
}

/// Draws, for each network of the model, the detection time and the false suspicions against the setting.
pub(super) fn draw_model(networks: &[(Network, Vec<Cell>)], path: &Path) -> Result<()> {
    let area = SVGBackend::new(path, (SIZE.0, 520)).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    let (left, right) = area.split_horizontally(SIZE.0 / 2);
    let most = networks
        .iter()
        .flat_map(|(_, cells)| cells)
        .map(|cell| quantile(&cell.detection_millis, 0.99));
    let found = Axis {
        caption: "a death without a reset is found after",
        unit: "ms: median, and 99 % (thin)",
        least: 200.0,
        most: most.fold(1000.0, f64::max) * 1.5,
    };
    let line = |share: f64| move |cell: &Cell| quantile(&cell.detection_millis, share);
    curves(networks, &left, &found, &[(&line(0.5), 2), (&line(0.99), 1)], false)?;
    let mistakes = Axis {
        caption: "a primary that is alive is suspected",
        unit: "times a day; none is drawn at the bottom",
        least: NONE,
        most: 2_000.0,
    };
    curves(
        networks,
        &right,
        &mistakes,
        &[(&|cell: &Cell| cell.mistakes_per_day().max(NONE), 2)],
        true,
    )?;
    area.present().map_err(failed)?;
    Ok(())
}

/// Where zero is on a logarithmic axis.
const NONE: f64 = 0.1;

struct Axis {
    caption: &'static str,
    unit: &'static str,
    least: f64,
    most: f64,
}

type Line<'a> = (&'a dyn Fn(&Cell) -> f64, u32);

fn curves(networks: &[(Network, Vec<Cell>)], area: &Area<'_>, axis: &Axis, lines: &[Line<'_>], legend: bool) -> Result<()> {
    let mut chart = ChartBuilder::on(area)
        .caption(axis.caption, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d((220.0..4500.0f64).log_scale(), (axis.least..axis.most).log_scale())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("suspectAfterMillis")
        .y_desc(axis.unit)
        .x_label_formatter(&|millis| format!("{millis:.0}"))
        .y_label_formatter(&|value| {
            if *value < 1.0 {
                format!("{value:.1}")
            } else {
                format!("{value:.0}")
            }
        })
        .light_line_style(BLACK.mix(0.03))
        .draw()
        .map_err(failed)?;
    for ((network, cells), colour) in networks.iter().zip(COLOURS) {
        for (value, width) in lines {
            let points = || cells.iter().map(|cell| (cell.suspect_after_millis as f64, value(cell)));
            let series = chart
                .draw_series(LineSeries::new(points(), colour.stroke_width(*width)))
                .map_err(failed)?;
            if legend {
                series
                    .label(network.name.split(':').next().unwrap_or(network.name))
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
            }
            chart
                .draw_series(points().map(|point| Circle::new(point, *width + 1, colour.filled())))
                .map_err(failed)?;
        }
    }
    if legend {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(failed)?;
    }
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

fn detection(settings: &[Setting], area: &Area<'_>) -> Result<()> {
    let medians: Vec<(f64, f64)> = settings
        .iter()
        .filter_map(|setting| Some((setting.suspect_after_millis as f64, median(&setting.detection_millis)?)))
        .collect();
    let most = settings
        .iter()
        .flat_map(|setting| &setting.detection_millis)
        .copied()
        .fold(1.0, f64::max);
    let widest = settings.iter().map(|setting| setting.suspect_after_millis).max().unwrap_or(1) as f64;
    let mut chart = ChartBuilder::on(area)
        .caption("a primary that stands still is found after", ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..widest * 1.05, 0.0..most * 1.1)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("suspectAfterMillis")
        .y_desc("ms until suspected: each repetition, and the median")
        .draw()
        .map_err(failed)?;
    chart
        .draw_series(LineSeries::new(medians, COLOURS[3].stroke_width(2)))
        .map_err(failed)?;
    for (setting, colour) in settings.iter().zip(COLOURS) {
        let at = setting.suspect_after_millis as f64;
        let points = setting
            .detection_millis
            .iter()
            .map(|&millis| Circle::new((at, millis), 3, colour.filled()));
        chart.draw_series(points).map_err(failed)?;
    }
    Ok(())
}

fn suspicions(settings: &[Setting], area: &Area<'_>) -> Result<()> {
    let pauses = || {
        settings
            .iter()
            .flat_map(|setting| &setting.false_suspicions)
            .map(|(pause, _)| *pause as f64)
    };
    let (shortest, longest) = (pauses().fold(f64::INFINITY, f64::min), pauses().fold(1.0, f64::max));
    let mut chart = ChartBuilder::on(area)
        .caption("a primary that pauses and goes on is taken for dead", ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d((shortest * 0.9..longest * 1.1).log_scale(), 0.0..105.0)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("length of the pause, ms")
        .y_desc("% of pauses")
        .x_label_formatter(&|millis| format!("{millis:.0}"))
        .draw()
        .map_err(failed)?;
    for (setting, colour) in settings.iter().zip(COLOURS) {
        let points = || setting.false_suspicions.iter().map(|(pause, share)| (*pause as f64, share * 100.0));
        chart
            .draw_series(LineSeries::new(points(), colour.stroke_width(2)))
            .map_err(failed)?
            .label(format!("suspectAfterMillis {}", setting.suspect_after_millis))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        chart
            .draw_series(points().map(|point| Circle::new(point, 3, colour.filled())))
            .map_err(failed)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(failed)?;
    Ok(())
}
