import { Page } from "@/app/Page";
import { Empty } from "@/design/states";

export default function ServicesPage() {
  return (
    <Page title="Services">
      <Empty title="Nothing here yet" />
    </Page>
  );
}
