"""Names that nobody gives in good faith, and some that people do."""

HOSTILE_NAMES = [
    *("../../x", "..", ".", "/etc/passwd", "C:\\x", "a/b", "a\\b", "..\\x", "~", "~root", "-rf", ".hidden"),
    *("a\0b", "a\nb", "a\rb", "a\tb", "\x1b[31m", "\u202egnp.exe", "\u200b", "\ud800", "\udcff", "\ufdd0"),
    *(
        "",
        " ",
        "x ",
        "x.",
        "x...",
        " x",
        "con",
        "CON",
        "Con.txt",
        "nul .x",
        "COM1",
        "lpt9.tar.gz",
        "CONIN$",
        "com\u00b9",
    ),
    *("x" * 300, "\u00e9" * 300, "\U0001f3ac" * 200, "x" * 119 + "\u00e9", 'a:b*c?"<>|', "=cmd|' /C calc'!A0"),
]
FIT_NAMES = [
    *(
        "video_test_0000004",
        "v_-02DygXbn6w",
        "match 3",
        "P01_01",
        "caf\u00e9",
        "\u6f22\u5b57",
        "a.b.c",
        "console",
        "com",
        "x~1",
    ),
    *("100%", "a&b", "(1)", "it's", "+x", "x=1", "\U0001f3ac", "x" * 120),
]
HOSTILE_LABELS = [
    *(
        "=cmd|' /C calc'!A0",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        " =1",
        "\u200b=1",
        "\ufeff=1",
        "\uff1d1",
        "\uff0b1",
    ),
    *("\uff0d1", "\uff201", "\u22121", "<img src=x onerror=alert(1)>", "a\n\nb --> c", "\0", "\ud800", "\u202egnp", ""),
    *("x" * 1000, "a,b;c\"d'e", "[x](javascript:alert(1))", "$x_{$"),
]
