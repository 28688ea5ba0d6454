from bench.gpu.policies.command import main

if __name__ == "__main__":
    main()
