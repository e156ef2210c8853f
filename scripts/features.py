if __name__ == "__main__":
    from re2tal_hf.commands.features import main

    raise SystemExit(main())
