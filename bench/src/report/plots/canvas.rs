//! What all plots share: a white page that is readable on a dark one, a title, and a legend above
//! the data, where it covers none.

use anyhow::Result;
use plotters::chart::MeshStyle;
use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Where a plot draws.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Colours that those who see no red or no green can tell apart (Okabe and Ito).
pub(super) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(super) const SKY: RGBColor = RGBColor(86, 180, 233);
pub(super) const ORANGE: RGBColor = RGBColor(213, 94, 0);
pub(super) const GREY: RGBColor = RGBColor(150, 150, 150);
pub(super) const INK: RGBColor = RGBColor(40, 40, 40);
const PALE: RGBColor = RGBColor(225, 225, 225);

/// Pixels of the title and the legend, and of the width of a letter.
const HEAD: i32 = 66;
const LETTER: f64 = 6.6;

pub(super) const WIDTH: u32 = 860;

/// What a name in the legend stands beside.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    Line(RGBColor),
    Bar(RGBColor),
    Target,
}

/// A page with a title and a legend, and below them what `plot` draws.
pub(super) fn draw(
    title: &str,
    legend: &[(Mark, &str)],
    height: u32,
    plot: impl FnOnce(&Area<'_>) -> Result<()>,
) -> Result<String> {
    let mut svg = String::new();
    {
        let page = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        page.fill(&WHITE)?;
        page.draw(&Text::new(title.to_owned(), (24, 14), text(18)))?;
        let (mut x, y) = (24, 52);
        for (mark, name) in legend {
            draw_mark(&page, *mark, x, y)?;
            let style = text(13).pos(Pos::new(HPos::Left, VPos::Center));
            page.draw(&Text::new((*name).to_owned(), (x + 30, y), style))?;
            #[expect(clippy::cast_possible_truncation, reason = "pixels")]
            let width = (name.chars().count() as f64 * LETTER) as i32;
            x += 30 + width + 20;
        }
        let (_, below) = page.split_vertically(HEAD);
        plot(&below)?;
        page.present()?;
    }
    Ok(svg)
}

fn draw_mark(page: &Area<'_>, mark: Mark, x: i32, y: i32) -> Result<()> {
    match mark {
        Mark::Line(colour) => {
            page.draw(&PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2)))?;
            page.draw(&Circle::new((x + 12, y), 4, colour.filled()))?;
        }
        Mark::Bar(colour) => {
            page.draw(&Rectangle::new([(x + 4, y - 6), (x + 22, y + 6)], colour.filled()))?;
        }
        Mark::Target => {
            page.draw(&PathElement::new([(x, y), (x + 24, y)], INK.stroke_width(3)))?;
        }
    }
    Ok(())
}

/// Text of some pixels.
fn text(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// Text in the middle of a point, or ending there.
pub(super) fn text_at(size: i32, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    text(size).pos(Pos::new(horizontal, vertical))
}

/// Draws axes and grid, with the words and numbers that they were given.
pub(super) fn draw_axes<X, Y, Horizontal, Vertical>(
    mesh: &mut MeshStyle<'_, '_, X, Y, SVGBackend<'_>>,
) -> Result<()>
where
    X: Ranged<ValueType = Horizontal> + ValueFormatter<Horizontal>,
    Y: Ranged<ValueType = Vertical> + ValueFormatter<Vertical>,
{
    mesh.label_style(text(13))
        .axis_desc_style(text(14))
        .axis_style(INK)
        .bold_line_style(PALE)
        .light_line_style(TRANSPARENT)
        .draw()?;
    Ok(())
}

/// Writes beside a point of the page, which is where charts say their values are, into an area of it.
pub(super) fn write(
    area: &Area<'_>,
    (x, y): (i32, i32),
    words: String,
    style: TextStyle<'_>,
) -> Result<()> {
    let (left, above) = area.get_base_pixel();
    area.draw(&Text::new(words, (x - left, y - above), style))?;
    Ok(())
}

/// The largest of some numbers with some room above.
pub(super) fn room_above(numbers: impl Iterator<Item = f64>) -> f64 {
    1.12 * numbers.fold(1e-9, f64::max)
}
