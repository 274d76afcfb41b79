from carousel.cli.main import main

main()
