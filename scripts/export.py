if __name__ == "__main__":
    from re2tal_hf.commands.export import main

    raise SystemExit(main())
