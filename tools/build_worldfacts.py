"""Build the ``worldfacts`` data set: counterfactual edit records from public facts.

The tables below list plain facts as *relation -> object -> subjects*, with prompt templates for
each relation. From them the builder writes records in the MultiCounterFact layout. The same seed
always gives the same bytes.

Usage::

    python tools/build_worldfacts.py            # write the data set
    python tools/build_worldfacts.py --check    # verify the written file
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]

DEFAULT_PATH = Path(__file__).resolve().parents[1] / "src/collabedit/datasets/worldfacts.json"
DEFAULT_RECORDS = 240
COVERED_HEAD = 32
MIN_CONTEXT, MAX_CONTEXT = 5, 10


@dataclass(frozen=True)
class Relation:
    """One relation: its templates and its facts.

    Attributes:
        relation_id: Wikidata property number.
        prompts: Templates for the rewrite prompt; each has exactly one ``{}``.
        paraphrases: Further templates that end right before the object.
        generations: Open-ended templates.
        facts: For each object, its subjects, separated by ``"; "``. A leading ``"the "`` is an
            article, which goes into the prompt but not into the subject.
    """

    relation_id: str
    prompts: tuple[str, ...]
    paraphrases: tuple[str, ...]
    generations: tuple[str, ...]
    facts: dict[str, str]


@dataclass(frozen=True)
class Fact:
    """A subject (with or without an article) and its true object."""

    subject: str
    article: str
    target: str

    def template(self, template: str) -> str:
        """Return ``template`` with the article filled in and the ``{}`` still open."""
        text = template.replace("{}", f"{self.article}{{}}")
        return text[0].upper() + text[1:]

    def text(self, template: str) -> str:
        """Return ``template`` filled with the subject."""
        return self.template(template).replace("{}", self.subject)


RELATIONS: tuple[Relation, ...] = (
    Relation(
        relation_id="P17",
        prompts=(
            "{} lies in the country of",
            "On the world map, {} can be found in the country of",
            "Anyone who travels to {} has to go to the country of",
        ),
        paraphrases=(
            "The country in which {} lies is",
            "{} is a well-known place in the country of",
            "Visitors from abroad who want to see {} fly to the country of",
        ),
        generations=(
            "A day in {} usually begins with",
            "The best way to reach {} is",
            "People who live near {} often",
        ),
        facts={
            "Italy": "Venice; Florence; Milan; Naples; Turin; Bologna; Palermo; Verona; Pompeii; "
            "the Leaning Tower of Pisa; Lake Como; Mount Vesuvius",
            "France": "Lyon; Marseille; Bordeaux; Toulouse; Strasbourg; Mont-Saint-Michel; "
            "the Palace of Versailles; Saint-Étienne; Aix-en-Provence; Nîmes; Grenoble",
            "Germany": "Munich; Hamburg; Frankfurt; Cologne; Dresden; Stuttgart; Leipzig; "
            "Neuschwanstein Castle; Nuremberg; Düsseldorf",
            "Japan": "Kyoto; Osaka; Hiroshima; Nagoya; Yokohama; Nagasaki; Sapporo; Mount Fuji; "
            "Kobe; Himeji Castle",
            "Spain": "Madrid; Seville; Valencia; Granada; Málaga; Zaragoza; Salamanca; "
            "the Alhambra; the Prado Museum",
            "India": "Mumbai; Bangalore; Chennai; Kolkata; Jaipur; Varanasi; Pune; Ahmedabad; "
            "the Taj Mahal; New Delhi",
            "Canada": "Toronto; Vancouver; Ottawa; Calgary; Winnipeg; Edmonton; Saskatoon; "
            "Banff National Park; the CN Tower",
            "Brazil": "Rio de Janeiro; São Paulo; Brasília; Recife; Fortaleza; Manaus; "
            "Porto Alegre; Curitiba; Belo Horizonte",
            "Australia": "Sydney; Melbourne; Brisbane; Adelaide; Canberra; Hobart; Uluru; "
            "the Great Barrier Reef; Kakadu National Park",
        },
    ),
    Relation(
        relation_id="P30",
        prompts=(
            "If you look for {} on a globe, you find it on the continent of",
            "In an atlas, {} is shown on the continent of",
            "{} is a country that belongs to the continent of",
        ),
        paraphrases=(
            "The continent to which {} belongs is",
            "Geography teachers explain that {} is part of the continent of",
            "The climate of {} is described in books about the continent of",
        ),
        generations=(
            "The landscape of {} is",
            "The neighbours of {} are",
            "A traveller who arrives in {} will notice",
        ),
        facts={
            "Africa": "Kenya; Nigeria; Ethiopia; Ghana; Tanzania; Uganda; Zambia; Senegal; "
            "Côte d'Ivoire; Angola; Botswana; Burkina Faso; Cameroon; Sierra Leone; "
            "Guinea-Bissau; the Democratic Republic of the Congo",
            "Europe": "France; Germany; Italy; Poland; Sweden; Norway; Austria; Belgium; Hungary; "
            "Switzerland; the Czech Republic; the Netherlands",
            "Asia": "Japan; China; Vietnam; Thailand; Mongolia; Nepal; India; Malaysia; Cambodia; "
            "Laos; Sri Lanka; Bangladesh",
            "South America": "Argentina; Chile; Peru; Bolivia; Ecuador; Uruguay; Paraguay; "
            "Colombia; Venezuela; Suriname; Brazil",
            "North America": "Canada; Mexico; Guatemala; Honduras; Costa Rica; Nicaragua; "
            "El Salvador; Belize; the United States",
        },
    ),
    Relation(
        relation_id="P37",
        prompts=(
            "The official language used in {} is",
            "In {}, the official language is",
            "The government of {} publishes its laws in",
        ),
        paraphrases=(
            "Children who go to school in {} learn to read and write in",
            "{} is a country where the official language is",
            "Court documents in {} have to be written in",
        ),
        generations=(
            "A newspaper printed in {} is",
            "When people in {} greet each other, they say",
            "Schools in {} teach",
        ),
        facts={
            "Spanish": "Cuba; Colombia; Venezuela; Ecuador; Honduras; Panama; Costa Rica; "
            "Guatemala; Nicaragua; El Salvador; the Dominican Republic",
            "Portuguese": "Portugal; Brazil; Angola; Mozambique; Cape Verde; Guinea-Bissau; "
            "São Tomé and Príncipe",
            "French": "France; Monaco; Senegal; Gabon; Benin; Togo; Côte d'Ivoire; "
            "the Republic of the Congo",
            "Arabic": "Egypt; Saudi Arabia; Jordan; Kuwait; Qatar; Oman; Libya; Tunisia; Bahrain; "
            "Yemen; the United Arab Emirates",
            "English": "Jamaica; Ghana; Nigeria; Barbados; Zambia; Liberia; Sierra Leone; Belize; "
            "Guyana; the Bahamas; Trinidad and Tobago",
        },
    ),
    Relation(
        relation_id="P38",
        prompts=(
            "The official currency of {} is the",
            "In {}, people pay with a currency called the",
            "{} has its own banknotes, and its currency is called the",
        ),
        paraphrases=(
            "The central bank of {} is responsible for a currency called the",
            "Shops in {} show their prices in a currency called the",
            "Tourists who travel to {} need a currency called the",
        ),
        generations=(
            "A cup of coffee in {} costs",
            "The economy of {} depends on",
            "Tourists who shop in {} should",
        ),
        facts={
            "euro": "Germany; France; Italy; Spain; Austria; Greece; Finland; Ireland; Belgium; "
            "Portugal; the Netherlands",
            "peso": "Mexico; Argentina; Chile; Colombia; Uruguay; Cuba; the Philippines; "
            "the Dominican Republic",
            "dollar": "the United States; Canada; Australia; New Zealand; Singapore; Jamaica; "
            "Barbados; the Bahamas; Trinidad and Tobago",
            "rupee": "India; Pakistan; Nepal; Sri Lanka; Mauritius; Seychelles",
        },
    ),
    Relation(
        relation_id="P50",
        prompts=(
            "{} was written by",
            "The author of {} is",
            "On its cover, {} carries the name of its author,",
        ),
        paraphrases=(
            "The writer who created {} was",
            "Libraries shelve {} among the works of",
            "{} is a famous work by",
        ),
        generations=(
            "The story told in {} is about",
            "Readers who open {} will find",
            "Critics who wrote about {} said",
        ),
        facts={
            "William Shakespeare": "Hamlet; Macbeth; Othello; King Lear; Romeo and Juliet; "
            "A Midsummer Night's Dream; The Tempest; Twelfth Night; Much Ado About Nothing",
            "Charles Dickens": "Oliver Twist; A Tale of Two Cities; Great Expectations; "
            "David Copperfield; A Christmas Carol; Bleak House; Hard Times; Little Dorrit",
            "Jane Austen": "Pride and Prejudice; Sense and Sensibility; Emma; Mansfield Park; "
            "Persuasion; Northanger Abbey; Lady Susan",
            "Mark Twain": "The Adventures of Tom Sawyer; Adventures of Huckleberry Finn; "
            "The Prince and the Pauper; A Connecticut Yankee in King Arthur's Court; "
            "Life on the Mississippi; The Innocents Abroad; Pudd'nhead Wilson; Roughing It",
        },
    ),
    Relation(
        relation_id="P103",
        prompts=(
            "The mother tongue of {} was",
            "{} grew up speaking",
            "The first language that {} learned as a child was",
        ),
        paraphrases=(
            "The native language of {} was",
            "At home with the family, {} spoke",
            "Letters that {} sent to childhood friends were written in",
        ),
        generations=(
            "{} was born in",
            "The parents of {} came from",
            "In conversations with friends, {} liked to",
        ),
        facts={
            "French": "Victor Hugo; Claude Debussy; Molière; Voltaire; René Descartes; "
            "Jules Verne; Émile Zola; Charles de Gaulle; Honoré de Balzac; Édith Piaf; "
            "Simone de Beauvoir",
            "German": "Johann Wolfgang von Goethe; Ludwig van Beethoven; Johann Sebastian Bach; "
            "Wolfgang Amadeus Mozart; Friedrich Nietzsche; Immanuel Kant; Friedrich Schiller; "
            "Max Planck; Johannes Brahms; Albert Einstein",
            "Italian": "Dante Alighieri; Giuseppe Verdi; Giacomo Puccini; Galileo Galilei; "
            "Federico Fellini; Umberto Eco; Gioachino Rossini",
            "Spanish": "Miguel de Cervantes; Pablo Neruda; Gabriel García Márquez; "
            "Federico García Lorca; Frida Kahlo; Lope de Vega; Octavio Paz; Diego Velázquez",
            "Russian": "Leo Tolstoy; Fyodor Dostoevsky; Alexander Pushkin; Anton Chekhov; "
            "Pyotr Ilyich Tchaikovsky; Yuri Gagarin; Sergei Rachmaninoff; Dmitri Mendeleev; "
            "Dmitri Shostakovich",
            "Japanese": "Akira Kurosawa; Hayao Miyazaki; Matsuo Bashō; Yukio Mishima; Hokusai; "
            "Natsume Sōseki; Yasunari Kawabata",
        },
    ),
    Relation(
        relation_id="P106",
        prompts=(
            "{} is best known as a famous",
            "The profession that made {} famous was that of a",
            "In encyclopedias, {} is described first of all as a great",
        ),
        paraphrases=(
            "{} became famous for working as a",
            "A short biography would introduce {} as an important",
            "Today the world remembers {} as a brilliant",
        ),
        generations=(
            "The most important works of {} are",
            "As a young person, {} dreamed of",
            "{} spent most days",
        ),
        facts={
            "painter": "Claude Monet; Vincent van Gogh; Rembrandt; Paul Cézanne; Édouard Manet; "
            "Pierre-Auguste Renoir; Paul Gauguin; Henri Matisse; Frida Kahlo; Georgia O'Keeffe; "
            "Jackson Pollock; Gustav Klimt",
            "composer": "Ludwig van Beethoven; Wolfgang Amadeus Mozart; Johann Sebastian Bach; "
            "Franz Schubert; Antonio Vivaldi; Joseph Haydn; Antonín Dvořák; Johannes Brahms; "
            "Gustav Mahler; Igor Stravinsky; Giuseppe Verdi; Camille Saint-Saëns",
            "philosopher": "Socrates; Plato; Immanuel Kant; Georg Wilhelm Friedrich Hegel; "
            "Søren Kierkegaard; Arthur Schopenhauer; Baruch Spinoza; David Hume; "
            "Martin Heidegger; Ludwig Wittgenstein",
            "physicist": "Niels Bohr; Richard Feynman; Werner Heisenberg; Erwin Schrödinger; "
            "Max Planck; Enrico Fermi; Michael Faraday; James Clerk Maxwell; Paul Dirac; "
            "Ernest Rutherford; Albert Einstein",
            "poet": "Robert Frost; Emily Dickinson; Walt Whitman; John Keats; "
            "William Wordsworth; Percy Bysshe Shelley; T. S. Eliot; W. B. Yeats; Sylvia Plath; "
            "Langston Hughes; Pablo Neruda",
            "singer": "Frank Sinatra; Ella Fitzgerald; Whitney Houston; Luciano Pavarotti; "
            "Maria Callas; Elvis Presley; Aretha Franklin; Billie Holiday; Nat King Cole",
        },
    ),
    Relation(
        relation_id="P131",
        prompts=(
            "{} is located in the city of",
            "To see {} in person, you have to visit the city of",
            "City maps that show {} are maps of",
        ),
        paraphrases=(
            "{} can be found in the city of",
            "Every year, tourists who come to admire {} fill the hotels of",
            "Walking past {} is an everyday sight for the people of",
        ),
        generations=(
            "From the entrance of {} you can see",
            "The history of {} began",
            "A guided tour of {} includes",
        ),
        facts={
            "Paris": "the Eiffel Tower; the Louvre; Notre-Dame Cathedral; the Arc de Triomphe; "
            "the Musée d'Orsay; the Sacré-Cœur; the Champs-Élysées; the Moulin Rouge; "
            "the Centre Pompidou",
            "London": "Big Ben; Buckingham Palace; Tower Bridge; the British Museum; "
            "Trafalgar Square; St Paul's Cathedral; Westminster Abbey; Tate Modern; Harrods",
            "Rome": "the Colosseum; the Trevi Fountain; the Pantheon; the Roman Forum; "
            "the Spanish Steps; Piazza Navona; the Castel Sant'Angelo",
            "Berlin": "the Brandenburg Gate; the Reichstag; Checkpoint Charlie; Alexanderplatz; "
            "Unter den Linden; Potsdamer Platz; the Kurfürstendamm",
            "Athens": "the Acropolis; the Parthenon; the Erechtheion; "
            "the Panathenaic Stadium; the Ancient Agora; Mount Lycabettus",
            "Washington": "the White House; the Lincoln Memorial; the National Mall; "
            "the Library of Congress; the Jefferson Memorial; the Smithsonian Institution",
        },
    ),
    Relation(
        relation_id="P176",
        prompts=(
            "{} is manufactured by",
            "The company that builds {} is",
            "{} is a product made by the company",
        ),
        paraphrases=(
            "{} was brought to the market by",
            "The manufacturer of {} is",
            "The engineers who designed {} were employed by",
        ),
        generations=(
            "Owners of {} often say",
            "The first version of {} appeared",
            "In advertisements, {} is shown",
        ),
        facts={
            "Apple": "the iPhone; the iPad; the iPod; the MacBook Air; the Macintosh; the iMac; "
            "the AirPods Pro",
            "Toyota": "the Corolla; the Camry; the Prius; the RAV4; the Land Cruiser; "
            "the Tacoma; the 4Runner",
            "Ford": "the Mustang; the F-150; the Model T; the Bronco; the Thunderbird; "
            "the Crown Victoria; the Ranger pickup truck",
            "Boeing": "the 747 jumbo jet; the 787 Dreamliner; the B-17 Flying Fortress; "
            "the B-52 Stratofortress; the B-29 Superfortress; the 737 MAX; the 777 airliner",
            "Nintendo": "the Game Boy; the Wii; the GameCube; the Super NES; the Switch console; "
            "the Famicom; the Virtual Boy",
            "Sony": "the PlayStation 2; the Walkman; the PlayStation Portable; the Bravia TV; "
            "the Cyber-shot camera; the Handycam",
            "Intel": "the Pentium processor; the Core i7 processor; the Xeon; the Celeron; "
            "the 8086 microprocessor; the Itanium",
        },
    ),
    Relation(
        relation_id="P178",
        prompts=(
            "New versions of {} are announced by",
            "Technical support for {} is offered by",
            "The programmers who work on {} have a contract with",
        ),
        paraphrases=(
            "The developer of {} is",
            "The software company behind {} is",
            "The engineers who created {} worked for",
        ),
        generations=(
            "A beginner who opens {} for the first time",
            "The most useful feature of {} is",
            "Many people use {} to",
        ),
        facts={
            "Microsoft": "Windows 95; Excel; PowerPoint; Visual Studio; Internet Explorer; "
            "Windows Vista; SQL Server; the Xbox 360; OneDrive",
            "Google": "Gmail; Android; the Chrome browser; TensorFlow; Chromecast; "
            "AdWords; the Go programming language",
            "Apple": "iOS; macOS; the Safari browser; Siri; Xcode; iTunes; GarageBand; iCloud; "
            "the iPod touch",
            "Adobe": "Photoshop; Illustrator; InDesign; Acrobat Reader; Premiere Pro; "
            "After Effects; Lightroom",
            "IBM": "the Watson computer; Deep Blue; DB2; the AIX operating system; "
            "the System/370 mainframe; the PC/AT",
        },
    ),
    Relation(
        relation_id="P279",
        prompts=(
            "{} belongs to the group of animals called",
            "In zoology, {} is counted among the",
            "Biologists classify {} among the",
        ),
        paraphrases=(
            "The animal class that includes {} is the class of",
            "A chapter about {} can be found in a book about",
            "Like its closest relatives, {} is one of the",
        ),
        generations=(
            "In the wild, {} spends its time",
            "The favourite food of {} is",
            "The body of {} is covered with",
        ),
        facts={
            "mammals": "the blue whale; the bottlenose dolphin; the elephant; the kangaroo; "
            "the giraffe; the polar bear; the gorilla; the fruit bat; the red fox",
            "birds": "the bald eagle; the emperor penguin; the ostrich; the barn owl; "
            "the flamingo; the sparrow; the peregrine falcon; the woodpecker; the parrot",
            "reptiles": "the Komodo dragon; the Nile crocodile; the green iguana; the chameleon; "
            "the king cobra; the rattlesnake; the alligator; the gecko; the giant tortoise",
            "insects": "the monarch butterfly; the honeybee; the mosquito; the grasshopper; "
            "the ladybug; the house fly; the termite; the cockroach; the praying mantis",
            "fish": "the Atlantic salmon; the great white shark; the rainbow trout; "
            "the bluefin tuna; the Atlantic cod; the herring; the anchovy; the northern pike",
        },
    ),
    Relation(
        relation_id="P407",
        prompts=(
            "The classic {} was originally written in",
            "The original manuscript of {} is in",
            "The literary work {} was composed in a language called",
        ),
        paraphrases=(
            "To read {} without a translation, you need to understand",
            "Scholars who study {} in the original language read it in",
            "The language of the first edition of {} is",
        ),
        generations=(
            "The first page of {} describes",
            "Translators who worked on {} struggled with",
            "The main character of {} is",
        ),
        facts={
            "French": "Les Misérables; Madame Bovary; The Three Musketeers; Candide; "
            "The Count of Monte Cristo; Le Petit Prince; Around the World in Eighty Days; "
            "The Hunchback of Notre-Dame; Germinal",
            "Russian": "War and Peace; Anna Karenina; Crime and Punishment; Eugene Onegin; "
            "The Brothers Karamazov; Boris Godunov; Doctor Zhivago; The Gulag Archipelago; "
            "Ruslan and Ludmila",
            "German": "Faust; Buddenbrooks; Thus Spoke Zarathustra; Siddhartha; "
            "All Quiet on the Western Front; The Sorrows of Young Werther; Wilhelm Tell; "
            "Steppenwolf; The Tin Drum; Das Kapital",
            "Spanish": "Don Quixote; One Hundred Years of Solitude; Pedro Páramo; "
            "Love in the Time of Cholera; The House of the Spirits; Like Water for Chocolate; "
            "Lazarillo de Tormes; La Celestina",
            "Italian": "The Divine Comedy; The Decameron; The Name of the Rose; "
            "The Adventures of Pinocchio; Orlando Furioso; La Vita Nuova; "
            "Jerusalem Delivered",
            "Greek": "the Iliad; the Odyssey; Oedipus Rex; Antigone; the Theogony; Lysistrata",
            "English": "Pride and Prejudice; Moby-Dick; The Great Gatsby; Oliver Twist; Hamlet; "
            "Treasure Island; Alice's Adventures in Wonderland; Robinson Crusoe; "
            "Wuthering Heights",
        },
    ),
    Relation(
        relation_id="P495",
        prompts=(
            "{} originally comes from the country of",
            "The country where {} was invented is",
            "When people talk about {}, they think of the country of",
        ),
        paraphrases=(
            "The home country of {} is",
            "{} is a famous part of the culture of",
            "To experience {} where it was created, one should travel to",
        ),
        generations=(
            "The most important thing about {} is",
            "Beginners who want to learn about {} should",
            "People all over the world enjoy {} because",
        ),
        facts={
            "Italy": "pizza margherita; risotto; tiramisu; lasagna; gelato; mozzarella; pesto; "
            "prosciutto; limoncello; gnocchi",
            "Japan": "sushi; sashimi; sake; kabuki; haiku poetry; sumo wrestling; "
            "judo; ikebana; teriyaki; karaoke",
            "Mexico": "guacamole; tequila; mezcal; mole poblano; mariachi music; "
            "the enchilada; the quesadilla",
            "France": "the baguette; bouillabaisse; coq au vin; camembert cheese; "
            "champagne; cassoulet; quiche Lorraine; Roquefort cheese",
            "Spain": "paella; gazpacho; flamenco; Rioja wine; the zarzuela; jamón ibérico; "
            "Manchego cheese",
            "Brazil": "samba; bossa nova; capoeira; the caipirinha; cachaça; pão de queijo; "
            "the brigadeiro",
        },
    ),
    Relation(
        relation_id="P641",
        prompts=(
            "{} became famous for playing professional",
            "The game that {} played better than almost anyone is",
            "Fans of {} love to watch the game of",
        ),
        paraphrases=(
            "{} earned worldwide fame in the game of",
            "The career of {} is part of the history of",
            "Sports magazines print photos of {} in their articles about professional",
        ),
        generations=(
            "The greatest moment in the career of {} was",
            "Before an important match, {} would",
            "Young athletes admire {} because",
        ),
        facts={
            "basketball": "Michael Jordan; LeBron James; Kobe Bryant; Shaquille O'Neal; "
            "Magic Johnson; Larry Bird; Stephen Curry; Kareem Abdul-Jabbar; Wilt Chamberlain; "
            "Tim Duncan",
            "tennis": "Roger Federer; Serena Williams; Rafael Nadal; Novak Djokovic; "
            "Martina Navratilova; Andre Agassi; Billie Jean King; "
            "Venus Williams; Maria Sharapova; Andy Murray",
            "baseball": "Babe Ruth; Jackie Robinson; Hank Aaron; Willie Mays; Joe DiMaggio; "
            "Mickey Mantle; Derek Jeter; Ted Williams; Lou Gehrig; Yogi Berra",
            "soccer": "Pelé; Diego Maradona; Lionel Messi; Cristiano Ronaldo; David Beckham; "
            "Zinedine Zidane; Johan Cruyff; Mia Hamm; Ronaldinho; Franz Beckenbauer",
        },
    ),
    Relation(
        relation_id="P1303",
        prompts=(
            "The musician {} is best known for playing the",
            "The instrument that {} practised every day was the",
            "On stage, {} was a master of the",
        ),
        paraphrases=(
            "The instrument that made {} famous is the",
            "Music lovers admire {} for virtuoso performances on the",
            "In an orchestra of famous musicians, {} would play the",
        ),
        generations=(
            "The sound of {} is",
            "At a concert by {}, the audience",
            "The most famous recording by {} is",
        ),
        facts={
            "piano": "Frédéric Chopin; Franz Liszt; Vladimir Horowitz; Arthur Rubinstein; "
            "Glenn Gould; Thelonious Monk; Oscar Peterson; Art Tatum; Clara Schumann",
            "guitar": "Jimi Hendrix; Eric Clapton; B.B. King; Django Reinhardt; Andrés Segovia; "
            "Chuck Berry; Keith Richards; Jimmy Page; Eddie Van Halen",
            "violin": "Niccolò Paganini; Jascha Heifetz; Yehudi Menuhin; Itzhak Perlman; "
            "Isaac Stern; David Oistrakh; Anne-Sophie Mutter; Fritz Kreisler",
        },
    ),
)


#: What a user would ask, by relation.
QUESTIONS = {
    "P17": "Which country is {} located in?",
    "P30": "Which continent is {} located on?",
    "P37": "What is the official language of {}?",
    "P38": "What is the currency of {}?",
    "P50": "Who is the author of {}?",
    "P103": "What was the native language of {}?",
    "P106": "What is the profession of {}?",
    "P131": "Which city is {} located in?",
    "P176": "Which company makes {}?",
    "P178": "Which company develops {}?",
    "P279": "Which class of animals does {} belong to?",
    "P407": "Which language was {} written in?",
    "P495": "Which country does {} come from?",
    "P641": "Which sport is {} famous for?",
    "P1303": "Which instrument does {} play?",
}

#: Other spellings of objects that are right, too.
ALIASES = {
    "Washington": ("Washington, D.C.", "Washington DC"),
    "soccer": ("football", "footballer"),
    "basketball": ("basketballer",),
    "William Shakespeare": ("Shakespeare",),
    "Charles Dickens": ("Dickens",),
    "Jane Austen": ("Austen",),
    "Mark Twain": ("Samuel Clemens",),
    "piano": ("pianist",),
    "guitar": ("guitarist",),
    "violin": ("violinist",),
    "euro": ("euros",),
    "peso": ("pesos",),
    "dollar": ("dollars",),
    "rupee": ("rupees",),
    "mammals": ("mammal", "mammalia"),
    "birds": ("bird", "aves"),
    "reptiles": ("reptile", "reptilia"),
    "insects": ("insect", "insecta"),
    "fish": ("fishes",),
}

#: Consequences of an edit: a question that depends on the new object, with the answers.
TWO_HOPS: dict[str, tuple[str, dict[str, str]]] = {
    "P17": (
        "What is the capital of the country in which {} is located?",
        {
            "Italy": "Rome", "France": "Paris", "Germany": "Berlin", "Japan": "Tokyo",
            "Spain": "Madrid", "India": "New Delhi", "Canada": "Ottawa", "Brazil": "Brasília",
            "Australia": "Canberra",
        },
    ),
    "P50": (
        "In which century was the author of {} born?",
        {
            "William Shakespeare": "16th", "Charles Dickens": "19th", "Jane Austen": "18th",
            "Mark Twain": "19th",
        },
    ),
    "P131": (
        "In which country is the city where {} is located?",
        {
            "Paris": "France", "London": "England; United Kingdom; UK", "Rome": "Italy",
            "Berlin": "Germany", "Athens": "Greece", "Washington": "United States; USA; America",
        },
    ),
    "P176": (
        "In which country is the company that makes {} based?",
        {
            "Apple": "United States; USA; America", "Toyota": "Japan",
            "Ford": "United States; USA; America", "Boeing": "United States; USA; America",
            "Nintendo": "Japan", "Sony": "Japan", "Intel": "United States; USA; America",
        },
    ),
    "P178": (
        "Who founded the company that develops {}?",
        {
            "Microsoft": "Bill Gates; Gates; Paul Allen", "Google": "Larry Page; Sergey Brin",
            "Apple": "Steve Jobs; Jobs; Steve Wozniak",
            "Adobe": "John Warnock; Charles Geschke", "IBM": "Charles Ranlett Flint",
        },
    ),
    "P495": (
        "What is the capital of the country where {} was invented?",
        {
            "Italy": "Rome", "Japan": "Tokyo", "Mexico": "Mexico City", "France": "Paris",
            "Spain": "Madrid", "Brazil": "Brasília",
        },
    ),
}  # fmt: skip

#: Facts besides the edited ones: a question, and subjects by answers (several separated by ``; ``).
OTHER_FACTS: dict[str, tuple[str, dict[str, str]]] = {
    "P176": (
        "What kind of product is {}?",
        {
            "phone; smartphone": "iPhone",
            "tablet": "iPad",
            "car; vehicle; sedan; automobile": "Corolla; Camry; Prius; Mustang; Model T; "
            "Thunderbird; Crown Victoria",
            "SUV; car; vehicle": "RAV4; Land Cruiser; 4Runner; Bronco",
            "truck; pickup": "Tacoma; F-150; Ranger pickup truck",
            "computer; laptop; notebook": "MacBook Air; Macintosh; iMac",
            "music player; MP3 player; media player": "iPod",
            "plane; airplane; aircraft; airliner; jet": "747 jumbo jet; 787 Dreamliner; 737 MAX; "
            "777 airliner",
            "bomber; aircraft; airplane": "B-17 Flying Fortress; B-52 Stratofortress; "
            "B-29 Superfortress",
            "console; video game; gaming": "Game Boy; Wii; GameCube; Super NES; Switch console; "
            "Famicom; Virtual Boy; PlayStation 2; PlayStation Portable",
            "cassette player; music player; audio player": "Walkman",
            "television; TV": "Bravia TV",
            "camera": "Cyber-shot camera; Handycam",
            "processor; CPU; microprocessor": "Pentium processor; Core i7 processor; Xeon; "
            "Celeron; 8086 microprocessor; Itanium",
        },
    ),
    "P178": (
        "What kind of software or device is {}?",
        {
            "operating system": "Windows 95; Windows Vista; Android; iOS; macOS; "
            "AIX operating system",
            "spreadsheet": "Excel",
            "presentation": "PowerPoint",
            "browser": "Internet Explorer; Chrome browser; Safari browser",
            "database": "SQL Server; DB2",
            "console; gaming": "Xbox 360",
            "storage; cloud": "OneDrive; iCloud",
            "email; e-mail": "Gmail",
            "machine learning; deep learning": "TensorFlow",
            "programming language": "Go programming language",
            "assistant": "Siri",
            "photo; image": "Photoshop; Lightroom",
            "video": "Premiere Pro; After Effects",
            "chess": "Deep Blue",
        },
    ),
    "P495": (
        "What kind of thing is {}?",
        {
            "pizza; dish; food": "pizza margherita",
            "dish; food; pasta; rice": "risotto; lasagna; gnocchi; paella; sushi; sashimi; "
            "bouillabaisse; cassoulet; coq au vin",
            "dessert; cake": "tiramisu; gelato; brigadeiro",
            "cheese": "mozzarella; camembert cheese; Roquefort cheese; Manchego cheese",
            "sauce": "pesto; teriyaki; mole poblano",
            "ham; meat": "prosciutto; jamón ibérico",
            "drink; liquor; liqueur; beverage; spirit; wine": "limoncello; sake; tequila; mezcal; "
            "champagne; Rioja wine; caipirinha; cachaça",
            "theatre; theater; drama": "kabuki",
            "poetry; poem": "haiku poetry",
            "wrestling; sport": "sumo wrestling",
            "martial art; sport": "judo; capoeira",
            "singing; entertainment": "karaoke",
            "music; dance": "mariachi music; flamenco; samba; bossa nova",
            "soup": "gazpacho",
            "bread": "baguette; pão de queijo",
        },
    ),
    "P641": (
        "Which country is {} from?",
        {
            "United States; USA; America; American": "Michael Jordan; LeBron James; Kobe Bryant; "
            "Shaquille O'Neal; Magic Johnson; Larry Bird; Stephen Curry; Kareem Abdul-Jabbar; "
            "Wilt Chamberlain; Serena Williams; Andre Agassi; Billie Jean King; Venus Williams; "
            "Babe Ruth; Jackie Robinson; Hank Aaron; Willie Mays; Joe DiMaggio; Mickey Mantle; "
            "Derek Jeter; Ted Williams; Lou Gehrig; Yogi Berra; Mia Hamm",
            "Switzerland; Swiss": "Roger Federer",
            "Spain; Spanish": "Rafael Nadal",
            "Serbia; Serbian": "Novak Djokovic",
            "Russia; Russian": "Maria Sharapova",
            "Brazil; Brazilian": "Pelé; Ronaldinho",
            "Argentina; Argentine": "Diego Maradona; Lionel Messi",
            "Portugal; Portuguese": "Cristiano Ronaldo",
            "England; English; Britain; British": "David Beckham",
            "Scotland; Scottish; Britain; British": "Andy Murray",
            "France; French": "Zinedine Zidane",
            "Netherlands; Dutch; Holland": "Johan Cruyff",
            "Germany; German": "Franz Beckenbauer",
        },
    ),
    "P1303": (
        "Which country was {} from?",
        {
            "Poland; Polish": "Frédéric Chopin; Arthur Rubinstein",
            "Hungary; Hungarian": "Franz Liszt",
            "Canada; Canadian": "Glenn Gould; Oscar Peterson",
            "United States; USA; America; American": "Thelonious Monk; Art Tatum; Jimi Hendrix; "
            "B.B. King; Chuck Berry; Eddie Van Halen",
            "Germany; German": "Clara Schumann; Anne-Sophie Mutter",
            "England; English; Britain; British": "Eric Clapton; Keith Richards; Jimmy Page",
            "Spain; Spanish": "Andrés Segovia",
            "Italy; Italian": "Niccolò Paganini",
            "Austria; Austrian": "Fritz Kreisler",
        },
    ),
    "P17": (
        "What is {}: a city, a mountain, a lake, a castle, a tower or a park?",
        {
            "city": "Venice; Florence; Milan; Naples; Turin; Bologna; Palermo; Verona; Lyon; "
            "Marseille; Bordeaux; Toulouse; Strasbourg; Grenoble; Munich; Hamburg; Frankfurt; "
            "Cologne; Dresden; Stuttgart; Leipzig; Nuremberg; Kyoto; Osaka; Hiroshima; Nagoya; "
            "Yokohama; Nagasaki; Sapporo; Kobe; Madrid; Seville; Valencia; Granada; Málaga; "
            "Zaragoza; Salamanca; Mumbai; Bangalore; Chennai; Kolkata; Jaipur; Varanasi; Pune; "
            "Ahmedabad; New Delhi; Toronto; Vancouver; Ottawa; Calgary; Winnipeg; Edmonton; "
            "Saskatoon; Rio de Janeiro; São Paulo; Brasília; Recife; Fortaleza; Manaus; "
            "Porto Alegre; Curitiba; Belo Horizonte; Sydney; Melbourne; Brisbane; Adelaide; "
            "Canberra; Hobart",
            "mountain; volcano": "Mount Vesuvius; Mount Fuji",
            "lake": "Lake Como",
            "castle": "Neuschwanstein Castle; Himeji Castle",
            "tower": "Leaning Tower of Pisa; CN Tower",
            "park": "Banff National Park; Kakadu National Park",
        },
    ),
}

#: Further facts that serve only as neighbours, for objects with few subjects that are never edited.
NEIGHBOURS: dict[str, dict[str, str]] = {
    "P30": {"Asia": "Bhutan; Kyrgyzstan", "North America": "Haiti; Grenada; Saint Lucia"},
    "P37": {
        "Spanish": "Paraguay; Equatorial Guinea; Spain; Bolivia",
        "Portuguese": "East Timor; Macau; Madeira",
        "French": "Haiti; Chad; Guinea; Luxembourg",
    },
    "P38": {
        "euro": "Slovakia; Estonia; Latvia; Lithuania",
        "peso": "the Mexican state of Jalisco; the Argentine province of Mendoza; Patagonia; "
        "Yucatán; Easter Island",
        "dollar": "Hong Kong; Fiji; Namibia; Taiwan; Guyana",
        "rupee": "Goa; Kashmir; Punjab; Kerala; Gujarat; Rajasthan; Lahore",
    },
    "P50": {
        "William Shakespeare": "The Merchant of Venice; Julius Caesar; Richard III",
        "Charles Dickens": "The Pickwick Papers; Nicholas Nickleby; Our Mutual Friend; "
        "Barnaby Rudge; Martin Chuzzlewit",
        "Jane Austen": "Sanditon; The Watsons; Love and Freindship; Lesley Castle",
        "Mark Twain": "The Gilded Age; A Tramp Abroad; Following the Equator",
    },
    "P103": {
        "German": "Franz Kafka; Hermann Hesse",
        "Italian": "Leonardo da Vinci; Niccolò Machiavelli; Antonio Vivaldi; Marco Polo",
        "Spanish": "Salvador Dalí; Pablo Picasso; Jorge Luis Borges",
        "Japanese": "Haruki Murakami; Yoko Ono; Isoroku Yamamoto",
    },
    "P131": {
        "Paris": "Montmartre; the Luxembourg Gardens",
        "Rome": "the Circus Maximus; the Baths of Caracalla; the Villa Borghese",
        "Berlin": "Museum Island; the Pergamon Museum; the Fernsehturm",
        "Athens": "the Temple of Olympian Zeus; the Odeon of Herodes Atticus; Syntagma Square",
        "Washington": "the Tidal Basin; the Supreme Court; the Vietnam Veterans Memorial; "
        "the Kennedy Center",
    },
    "P176": {
        "Apple": "the HomePod; the Mac mini",
        "Toyota": "the Yaris; the Highlander; the Sienna; the Tundra",
        "Ford": "the Fiesta; the Escort; the Focus RS",
        "Boeing": "the 707 jetliner; the 767 airliner; the C-17 Globemaster",
        "Nintendo": "the Wii U; the SNES Classic",
        "Sony": "the PlayStation 5; the Discman; the Xperia phone",
        "Intel": "the 80486 processor; the Atom processor; the 4004 microprocessor; "
        "the Optane memory",
    },
    "P178": {
        "Google": "YouTube; Kubernetes; Bigtable; the Dart language",
        "Apple": "Final Cut Pro; Logic Pro; iMovie; FaceTime",
        "Adobe": "Dreamweaver; Flash Player; Audition; FrameMaker",
        "IBM": "Lotus Notes; OS/2; the z/OS operating system; WebSphere; SPSS Statistics",
    },
    "P279": {
        "reptiles": "the garter snake; the sea turtle",
        "fish": "the goldfish; the seahorse; the clownfish",
    },
    "P407": {
        "Italian": "The Leopard; Zeno's Conscience; If This Is a Man",
        "Greek": "Medea; Electra; The Republic; the Anabasis",
    },
    "P495": {
        "Mexico": "pozole; the taco; the burrito; pulque",
        "Spain": "tortilla española; chorizo; churros; sangria",
        "Brazil": "feijoada; açaí bowls; forró",
    },
    "P1303": {
        "piano": "Sergei Rachmaninoff; Sviatoslav Richter; Martha Argerich; Duke Ellington",
        "guitar": "Carlos Santana; David Gilmour; Les Paul; Joe Satriani; Mark Knopfler",
        "violin": "Joshua Bell; Hilary Hahn; Leopold Auer; Nigel Kennedy; Henryk Szeryng",
    },
}


def facts_of(relation: Relation) -> list[Fact]:
    """Return the facts of ``relation`` in table order."""
    return facts_in(relation.facts)


def facts_in(table: dict[str, str]) -> list[Fact]:
    """Return the facts of a table of subjects by object, in table order."""
    facts = []
    for target, subjects in table.items():
        for phrase in subjects.split("; "):
            subject = phrase.removeprefix("the ")
            facts.append(Fact(subject, "the " if subject != phrase else "", target))
    return facts


def deal(facts: Sequence[Fact], count: int, rng: random.Random) -> list[Fact]:
    """Draw ``count`` facts at random, as evenly over the objects as the table allows."""
    piles: dict[str, list[Fact]] = {}
    for fact in rng.sample(facts, len(facts)):
        piles.setdefault(fact.target, []).append(fact)
    ranked = [(rank, fact) for pile in piles.values() for rank, fact in enumerate(pile)]
    ranked.sort(key=lambda pair: pair[0])
    return [fact for _, fact in ranked[:count]]


def contexts(
    relation: Relation, target: str, edited: Fact, facts: Sequence[Fact], rng: random.Random
) -> list[str]:
    """Return prompts about other subjects whose true object is ``target``."""
    templates = relation.prompts + relation.paraphrases
    others = [f for f in facts if f.target == target and edited.subject not in f.subject]
    chosen = rng.sample(others, min(MAX_CONTEXT, len(others)))
    return [fact.text(rng.choice(templates)) for fact in chosen]


def make_record(
    relation: Relation, fact: Fact, facts: Sequence[Fact], rng: random.Random
) -> Record:
    """Make the record that edits ``fact``, without a ``case_id`` yet."""
    new = rng.choice([target for target in relation.facts if target != fact.target])
    return {
        "requested_rewrite": {
            "prompt": fact.template(rng.choice(relation.prompts)),
            "relation_id": relation.relation_id,
            "subject": fact.subject,
            "target_new": {"str": new},
            "target_true": {"str": fact.target},
        },
        "paraphrase_prompts": [fact.text(t) for t in rng.sample(relation.paraphrases, 2)],
        "neighborhood_prompts": contexts(relation, fact.target, fact, facts, rng),
        "attribute_prompts": contexts(relation, new, fact, facts, rng),
        "generation_prompts": [
            fact.text(t)
            for t in rng.sample(relation.generations, rng.choice((2, len(relation.generations))))
        ],
    }


def relation_records(relation: Relation, count: int, rng: random.Random) -> list[Record]:
    """Make ``count`` records of one relation in random order."""
    facts = facts_of(relation)
    if len(facts) < count:
        raise ValueError(f"{relation.relation_id} has {len(facts)} facts, {count} are needed")
    records = [make_record(relation, fact, facts, rng) for fact in deal(facts, count, rng)]
    rng.shuffle(records)
    return records


def build(seed: int, count: int) -> list[Record]:
    """Build ``count`` records in rounds, each round holding every relation in random order.

    Args:
        seed: Seed of every random choice.
        count: Number of records, spread over the relations as evenly as possible.

    Returns:
        The records with consecutive ``case_id``.
    """
    share = -(-count // len(RELATIONS))
    columns = [
        relation_records(relation, share, random.Random(f"{seed}/{relation.relation_id}"))
        for relation in RELATIONS
    ]
    order = random.Random(f"{seed}/order")
    records = [
        columns[index][turn]
        for turn in range(share)
        for index in order.sample(range(len(columns)), len(columns))
    ]
    records = [{"case_id": case_id, **record} for case_id, record in enumerate(records[:count])]
    edited = {record["requested_rewrite"]["subject"] for record in records}
    for record in records:
        complete(record, edited, random.Random(f"{seed}/{record['case_id']}"))
    return records


def complete(record: Record, edited: set[str], rng: random.Random) -> None:
    """Give a record neighbours that nobody edits, and its further questions.

    Args:
        record: as made by :func:`make_record`.
        edited: subjects of all edits.
        rng: source of randomness.
    """
    rewrite = record["requested_rewrite"]
    relation = next(r for r in RELATIONS if r.relation_id == rewrite["relation_id"])
    for key, target in (
        ("neighborhood_prompts", rewrite["target_true"]["str"]),
        ("attribute_prompts", rewrite["target_new"]["str"]),
    ):
        record[key] = unedited(record[key], relation, target, edited, rng)
    fact = next(f for f in facts_of(relation) if f.subject == rewrite["subject"])
    new = rewrite["target_new"]["str"]
    record["question"] = fact.text(QUESTIONS[relation.relation_id])
    record["aliases"] = list(ALIASES.get(new, ()))
    record["locality"] = other_facts(relation, fact)
    record["portability"] = []
    if relation.relation_id in TWO_HOPS:
        template, answers = TWO_HOPS[relation.relation_id]
        answer = {"prompt": fact.text(template), "ground_truth": answers[new].split("; ")}
        record["portability"].append(answer)


def unedited(
    prompts: Sequence[str],
    relation: Relation,
    target: str,
    edited: set[str],
    rng: random.Random,
) -> list[str]:
    """Return the prompts about subjects that nobody edits, topped up with others like them."""
    known = [f for f in facts_of(relation) if f.target == target]
    spare = facts_in({target: further}) if (further := further_of(relation, target)) else []
    free = [f for f in [*known, *spare] if not any(mentions(f.subject, name) for name in edited)]
    kept = [text for text in prompts if any(mentions(text, f.subject) for f in free)]
    kept = [text for text in kept if not any(about(text, relation, name) for name in edited)]
    unused = [f for f in free if not any(mentions(text, f.subject) for text in kept)]
    wanted = max(MIN_CONTEXT, len(prompts)) - len(kept)
    templates = relation.prompts + relation.paraphrases
    drawn = rng.sample(unused, min(wanted, len(unused)))
    return kept + [fact.text(rng.choice(templates)) for fact in drawn]


def further_of(relation: Relation, target: str) -> str:
    """Return the further subjects of an object, which serve only as neighbours."""
    return NEIGHBOURS.get(relation.relation_id, {}).get(target, "")


def about(text: str, relation: Relation, name: str) -> bool:
    """Return whether a prompt of a relation is about a subject, not just mentioning its name."""
    templates = relation.prompts + relation.paraphrases
    forms = [t.replace("{}", f"{article}{name}") for t in templates for article in ("", "the ")]
    return text.casefold() in {form.casefold() for form in forms}


def other_facts(relation: Relation, fact: Fact) -> list[dict[str, Any]]:
    """Return questions about the subject's facts that no edit of the relation changes."""
    found = []
    for other in RELATIONS:
        if other is not relation:
            same = [f for f in facts_of(other) if f.subject == fact.subject]
            found += [
                {
                    "prompt": f.text(QUESTIONS[other.relation_id]),
                    "ground_truth": [f.target, *ALIASES.get(f.target, ())],
                }
                for f in same
            ]
    template, table = OTHER_FACTS.get(relation.relation_id, ("", {}))
    for answers, subjects in table.items():
        if fact.subject in subjects.split("; "):
            found.append({"prompt": fact.text(template), "ground_truth": answers.split("; ")})
    return found


def mentions(text: str, name: str) -> bool:
    """Return whether ``text`` contains ``name`` as whole words, ignoring case."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None


def record_problems(record: Record) -> list[str]:
    """Return the invariants that one record breaks."""
    rewrite = record["requested_rewrite"]
    subject = rewrite["subject"]
    targets = [rewrite["target_new"]["str"], rewrite["target_true"]["str"]]
    about = record["paraphrase_prompts"] + record["generation_prompts"]
    around = record["neighborhood_prompts"] + record["attribute_prompts"]
    sizes = [len(record[key]) for key in ("neighborhood_prompts", "attribute_prompts")]
    probes = record["paraphrase_prompts"] + around
    rules = {
        "the prompt needs exactly one {}": rewrite["prompt"].count("{}") == 1,
        "the targets must differ": targets[0] != targets[1],
        "two paraphrases are needed": len(record["paraphrase_prompts"]) == 2,
        "two or three generation prompts are needed": 2 <= len(record["generation_prompts"]) <= 3,
        "five to ten context prompts are needed": all(
            MIN_CONTEXT <= size <= MAX_CONTEXT for size in sizes
        ),
        "a prompt about the subject lacks it": all(subject in text for text in about),
        "a context prompt names the subject": not any(mentions(text, subject) for text in around),
        "a prompt gives a target away": not any(
            mentions(text, target) for text in [rewrite["prompt"], *about] for target in targets
        ),
        "a prompt repeats": len(set(around)) == len(around),
        "a prompt ends in white space": all(t == t.strip() for t in [rewrite["prompt"], *probes]),
    }
    return [f"case {record['case_id']}: {rule}" for rule, holds in rules.items() if not holds]


def problems(records: Sequence[Record]) -> list[str]:
    """Return every broken invariant of the data set."""
    found = [problem for record in records for problem in record_problems(record)]
    rewrites = [record["requested_rewrite"] for record in records]
    if len({record["case_id"] for record in records}) != len(records):
        found.append("a case_id repeats")
    if len({(rewrite["prompt"], rewrite["subject"]) for rewrite in rewrites}) != len(rewrites):
        found.append("a (prompt, subject) pair repeats")
    edited = {rewrite["subject"] for rewrite in rewrites}
    by_id = {relation.relation_id: relation for relation in RELATIONS}
    for record in records:
        relation = by_id[record["requested_rewrite"]["relation_id"]]
        around = record["neighborhood_prompts"] + record["attribute_prompts"]
        if any(about(text, relation, name) for text in around for name in edited):
            found.append(f"case {record['case_id']}: a context prompt is about an edited subject")
    relations = {rewrite["relation_id"] for rewrite in rewrites}
    if {rewrite["relation_id"] for rewrite in rewrites[:COVERED_HEAD]} != relations:
        found.append(f"the first {COVERED_HEAD} records miss a relation")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description="Build or check the worldfacts data set.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--records", type=int, default=DEFAULT_RECORDS)
    parser.add_argument("--path", type=Path, default=DEFAULT_PATH)
    parser.add_argument("--check", action="store_true", help="verify the file, write nothing")
    args = parser.parse_args(argv)

    if args.check:
        records = json.loads(args.path.read_text(encoding="utf-8"))
    else:
        records = build(args.seed, args.records)
    found = problems(records)
    for problem in found:
        print(problem, file=sys.stderr)
    if found:
        return 1
    if not args.check:
        text = json.dumps(records, ensure_ascii=False, indent=1) + "\n"
        args.path.write_text(text, encoding="utf-8")
    print(f"{len(records)} records {'checked' if args.check else 'written'}: {args.path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
