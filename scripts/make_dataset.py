if __name__ == "__main__":
    from re2tal_hf.commands.make_dataset import main

    raise SystemExit(main())
