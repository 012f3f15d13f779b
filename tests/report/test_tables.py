"""The table of rules: what its cells are, which are the best, and that it fits a terminal."""

from report.comparisons import comparison_of, result_of

from plgen_ddp.report.tables import comparison_table

POOR = result_of("demo_marvelovd", labels=4034, precision=0.1145, recall=0.85, on_nothing=0.86, seconds=1234.5)
GOOD = result_of("demo_best", precision=0.8, recall=0.69, on_nothing=0.15, reliability=((5, 0.5, 0.7), (5, 0.9, 0.8)))
SILENT = result_of("demo_sasdet", labels=0, precision=0.0, recall=0.0, on_nothing=0.0)


def rows_of(table):
    """The cells of each row, by preset, above the empty line."""
    lines = table.partition("\n\n")[0].splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines}


def test_the_best_of_a_column_is_marked_and_a_rule_without_labels_is_the_best_at_nothing():
    rows = rows_of(comparison_table(comparison_of(POOR, GOOD, SILENT)))
    assert rows["marvelovd"][:5] == ["0.50", "1008.50", "0.11", "*0.85", "0.20"]
    assert rows["best"][2:5] == ["*0.80", "0.69", "*0.74"]
    on_nothing, off_by = 7, 11
    assert [rows[name][on_nothing] for name in ("marvelovd", "best", "sasdet")] == ["0.86", "*0.15", "0.00"]
    assert rows["best"][off_by] == "0.15"  # the mean of 0.2 and 0.1; the other's 0 is better
    assert "*" not in "".join(rows["sasdet"])


def test_equal_figures_are_both_the_best_and_one_rule_alone_is_not():
    rows = rows_of(comparison_table(comparison_of(GOOD, result_of("demo_hcc", precision=0.8, recall=0.1))))
    assert rows["best"][2] == rows["hcc"][2] == "*0.80"
    assert "*" not in comparison_table(comparison_of(GOOD)).partition("\n\n")[0]


def test_it_fits_120_columns_and_says_the_common_beginning_once():
    table = comparison_table(comparison_of(POOR, GOOD))
    assert max(map(len, table.splitlines())) <= 120
    heading = table.splitlines()[1].split()
    assert heading[0] == "demo_..." and heading[-1] == "seconds"
    mixed = comparison_table(comparison_of(POOR, result_of("mine")))
    assert {"demo_marvelovd", "mine", "preset"} <= {line.split()[0] for line in mixed.splitlines()[1:4]}


def test_markdown_has_the_same_cells_in_bold():
    lines = comparison_table(comparison_of(POOR, GOOD), markdown=True).partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:4] == ["demo_...", "score above", "labels an image", "precision"]
    assert cells[3][0] == "best" and cells[3][3:6] == ["**0.80**", "0.69", "**0.74**"]
    assert len({len(row) for row in cells}) == 1 and len(lines) == 4


def test_notes_say_what_was_compared_and_what_was_left_out():
    table = comparison_table(comparison_of(GOOD, left_out={"demo_hcc": "no super words"}, stand_ins=True))
    assert "4 images with 8 objects of 2 base names that stand in for novel ones: cat, dog." in table
    assert table.endswith("left out: demo_hcc: no super words")
