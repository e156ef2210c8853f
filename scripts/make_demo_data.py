if __name__ == "__main__":
    from re2tal_hf.commands.make_demo_data import main

    raise SystemExit(main())
