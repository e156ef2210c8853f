if __name__ == "__main__":
    from re2tal_hf.commands.compare import main

    raise SystemExit(main())
