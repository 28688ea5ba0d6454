from bench.gpu.system.command import main

main()
