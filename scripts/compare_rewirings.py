if __name__ == "__main__":
    from re2tal_hf.commands.compare_rewirings import main

    raise SystemExit(main())
