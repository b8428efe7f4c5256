//! Writes the generated YAML: beside this crate, and into the chart.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let chart = root.join("../charts/quorate-crds/templates");
    std::fs::create_dir_all(&chart)?;
    std::fs::write(root.join("quorate.io_replicatedstores.yaml"), quorate_crds::manifest())?;
    std::fs::write(chart.join("replicatedstores.yaml"), quorate_crds::chart_template())
}
